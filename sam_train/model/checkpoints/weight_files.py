"""Reads the tensors of a checkpoint file or folder. Nothing in it is ever executed.

`torch.load(weights_only=True)`, safetensors and numpy's `.npz` without pickles; whatever cannot be
read that way is a `UserError` of one line. What the tensors mean is decided in `copies.py` and
`init.py`.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sam_train.errors import UserError
from sam_train.model.checkpoints.copies import PREFERRED, Entry, entries_of
from sam_train.model.checkpoints.harmless import harmless_globals

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of peft's layout."""
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# Sharded and adapter folders that other programs write: what they hold, and the way out.
_OTHER_FOLDERS = {
    ADAPTER_CONFIG: (
        "peft's LoRA adapters, not a model; merge them first: export ckpt=FOLDER init_from=BASE "
        "out=merged.safetensors"
    ),
    ".metadata": (
        "a checkpoint in parts by torch.distributed; join them with `python -m "
        "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth`"
    ),
    "zero_to_fp32.py": (
        "a checkpoint in parts by DeepSpeed; join them with the zero_to_fp32.py inside"
    ),
}
_WEIGHTS = ("*.safetensors", "*.pth", "*.pt", "*.ckpt", "*.bin", "*.npz")
MODEL_RECORD = "model_config"
"""Name of the `ModelConfig` fields in our own checkpoints (.ckpt) and weights (.safetensors, as
JSON in the header)."""
AVERAGE_RECORD = "average"
"""Name of a checkpoint's averaged weights, by parameter name. They come before those of its state
dict wherever a model is only used."""
EXPORTED = "sam_train"
"""Key in the `.json` of an exported model that holds the same fields (as `model`)."""
BESIDE = ".json"
"""Ending of the file beside an exported `.pth`."""
_LARGEST_BESIDE = 1_000_000
# A small zip can unpack to a thousand times its size.
_LARGEST_NPZ = 20e9
# Torch's magic number, 0x1950a86a20f9469cfc6c, as a pickle writes it.
_TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
_FORBIDDEN = re.compile(r"GLOBAL\s+([\w.]+)")


def read_weights(path: Path) -> list[Entry]:
    """Read the tensors of a `.pth`, `.pt`, `.ckpt`, `.bin`, `.safetensors` or `.npz` file, or of a
    Hugging Face folder (`model.safetensors` or `pytorch_model.bin`, whole or sharded with an
    index).

    Returns every tensor on the CPU as stored (dtype included), with the keys around it; optimizers'
    are left out. Files are mapped into memory, not read at once.

    Raises:
        UserError: missing, empty, truncated or foreign file; a pickle that would run code; no
            tensors in it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    return _read_folder(path) if path.is_dir() else _read_file(path)


def read_folder_config(path: Path) -> dict[str, Any]:
    """Read the `config.json` of a Hugging Face folder; {} where there is none."""
    file = path / "config.json"
    if not file.is_file():
        return {}
    return read_json(file)


def read_trained_names(path: Path) -> list[str]:
    """List the parameters that the optimizer of a checkpoint of `fit` holds, by their own names.

    Raises:
        UserError: as `read_weights`, or a file without the state of a training.
    """
    content: Any = {} if _looks_like_safetensors(path, _head(path)) else _read_torch(path)
    states: Any = content.get("optimizer_states") if isinstance(content, Mapping) else None
    try:
        names = [n for state in states for group in state["param_groups"] for n in group["params"]]
    except (TypeError, KeyError):
        names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: does not say what was trained; name a checkpoint of fit, such as last.ckpt"
        )
    return [name.removeprefix("sam.") for name in names]


def read_safetensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Raises:
        UserError: missing or damaged file.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; fetch the folder again")
    tensors = _read_safetensors(file)
    with safe_open(file, framework="pt") as opened:
        return tensors, dict(opened.metadata() or {})


def read_model_record(path: Path) -> dict[str, Any]:
    """Read the `ModelConfig` fields that one of our own files was made with; {} for any other
    file or folder. What `export` writes for other programs says it in a `.json`: a Hugging Face
    folder's config.json, or the one beside a `.pth`.

    Raises:
        UserError: as `read_weights`.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    if path.is_dir():
        if (adapter := path / ADAPTER_WEIGHTS).is_file():
            return _read_safetensors_record(adapter)
        return _exported_record(read_folder_config(path))
    head = _head(path)
    # By content as well: people rename files.
    if _looks_like_safetensors(path, head):
        return _read_safetensors_record(path)
    content = {} if path.suffix == ".npz" else _read_torch(path)
    record = content.get(MODEL_RECORD) if isinstance(content, Mapping) else None
    if isinstance(record, Mapping):
        return dict(record)
    return _exported_record(_read_beside(path.with_suffix(BESIDE)))


def _read_beside(file: Path) -> dict[str, Any]:
    """Read a `.json` that may be of anything; {} if it is not one of ours."""
    # A larger one is another program's data.
    if not file.is_file() or file.stat().st_size > _LARGEST_BESIDE:
        return {}
    try:
        return read_json(file)
    except UserError:
        return {}


def _exported_record(content: Mapping[str, Any]) -> dict[str, Any]:
    ours = content.get(EXPORTED)
    record = ours.get("model") if isinstance(ours, dict) else None
    return record if isinstance(record, dict) else {}


def _read_safetensors_record(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get(MODEL_RECORD, "{}")
        record = json.loads(text)
    except Exception as error:  # safetensors has its own error type outside the Python hierarchy
        raise UserError(
            f"{file}: is not a whole safetensors file ({_first_line(error)}); fetch it again"
        ) from error
    return record if isinstance(record, dict) else {}


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file cannot be read or holds none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no JSON object; fetch the file again")
    return content


def _read_folder(folder: Path) -> list[Entry]:
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder / f"{name}.index.json")
    for name, what in _OTHER_FOLDERS.items():
        if (folder / name).is_file():
            raise UserError(f"{folder}: is {what}")
    inside = [file for kind in _WEIGHTS for file in (*folder.glob(kind), *folder.glob(f"*/{kind}"))]
    # A run's folder has many checkpoints; its latest is the one that people mean.
    inside.sort(key=lambda file: (file.name != "last.ckpt", file))
    hint = f", such as {inside[0]}" if inside else ""
    raise UserError(
        f"{folder}: holds neither {' nor '.join(_FOLDER_FILES)} (nor an index of shards); "
        f"give a folder saved by save_pretrained or name the file itself{hint}"
    )


def _read_shards(index: Path) -> list[Entry]:
    weight_map = read_json(index).get("weight_map")
    # Foreign JSON: nothing is known of its form before it is looked at.
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: has no weight_map; fetch the file again")
    entries: list[Entry] = []
    for name in sorted({str(shard) for shard in weight_map.values()}):
        shard = index.parent / name
        # An index is foreign text: it may only point beside itself.
        if Path(name).name != name or not shard.is_file():
            raise UserError(f"{index}: its shard {name} is missing; fetch the folder again")
        entries += _read_file(shard)
    # An interrupted download leaves whole shards out.
    if lost := sorted(set(weight_map) - {entry.name for entry in entries}):
        raise UserError(
            f"{index}: {len(lost)} tensors it lists are in no shard (first: {lost[0]}); "
            "fetch the folder again"
        )
    return entries


def _head(file: Path) -> bytes:
    """Read the first bytes of a file that may be weights."""
    try:
        with file.open("rb") as stream:
            head = stream.read(256)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    _refuse_other_formats(file, head)
    return head


def _read_file(file: Path) -> list[Entry]:
    head = _head(file)
    if _looks_like_safetensors(file, head):
        content: Any = _read_safetensors(file)
    elif file.suffix == ".npz":
        content = _read_numpy(file)
    else:
        content = _read_torch(file)
    if entries := entries_of(content):
        return entries
    raise UserError(
        f"{file}: holds no state dict (names -> tensors), neither at the top nor under "
        f"keys such as {', '.join(PREFERRED[:4])}"
    )


def _read_numpy(file: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as opened:
            # As the headers say, so nothing has been unpacked yet.
            size = sum(info.file_size for info in opened.infolist())
        if size > _LARGEST_NPZ:
            raise UserError(f"{file}: unpacks to {size / 1e9:.0f} GB, more than any SAM has")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{file}: is not a whole .npz of plain arrays ({_first_line(error)}); save it again"
        ) from error


def _refuse_other_formats(file: Path, head: bytes) -> None:
    if file.suffix == ".onnx":
        raise UserError(f"{file}: is an ONNX graph, not weights; name the file it was made from")
    text = head.lstrip().lower()
    if not head:
        raise UserError(f"{file}: is empty; fetch the file again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(f"{file}: is a web page, not weights; fetch the file itself again")
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"{file}: is a Git LFS pointer, not weights; run `git lfs pull` there")
    if head.startswith(b"PK") and not zipfile.is_zipfile(file):
        size = file.stat().st_size
        raise UserError(f"{file}: is damaged or cut off after {size} bytes; fetch it again")
    # A bare pickle: torch.save before zip files began with protocol 2 and its magic number. One in
    # 32 safetensors begins with this byte, too: it is the lowest of the header's length.
    pickled = head[0] == 0x80 and head[8:10] != b'{"'
    if pickled and (head[1:2] > b"\x02" or not head[2:].startswith(_TORCH_MAGIC)):
        raise UserError(
            f"{file}: refused, because a plain pickle can run code when loaded; save the state "
            "dict with torch.save or as safetensors"
        )


def _looks_like_safetensors(file: Path, head: bytes) -> bool:
    # 8 bytes of header length, then the JSON header itself.
    return file.suffix == ".safetensors" or (len(head) > 8 and head[8:10] == b'{"')


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except Exception as error:  # safetensors has its own error type outside the Python hierarchy
        raise UserError(
            f"{file}: is not a whole safetensors file ({_first_line(error)}); fetch it again"
        ) from error


def _read_torch(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(harmless_globals()):
            # Only torch's zip files can be mapped; those from before are read whole.
            mapped = zipfile.is_zipfile(file)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*TorchScript.*|.*pickle protocol.*")
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the unpickler raises almost any type on a damaged file
        if found := _FORBIDDEN.search(str(error)):
            # FastSAM is named like SAM and is a YOLO inside.
            yolo = ", an object of FastSAM or another YOLO" if "ultralytics" in found[1] else ""
            raise UserError(
                f"{file}: refused, because loading it would run code ({found[1]}{yolo}); save the "
                "state dict alone, or as safetensors"
            ) from error
        if "TorchScript" in str(error):
            raise UserError(
                f"{file}: is a TorchScript program, which is code; save the model's state dict"
            ) from error
        raise UserError(
            f"{file}: is not a checkpoint or is damaged ({_first_line(error)}); fetch it again"
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text is about torch.load's arguments
        return "not what torch.save writes"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:120]
