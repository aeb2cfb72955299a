"""Reads the tensors of a checkpoint file or folder. Nothing in it is ever executed.

`torch.load(weights_only=True)` and safetensors only; whatever cannot be read that way is a
`UserError` of one line.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.state_dicts import StateDict

_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
# Where trainers keep the weights: Lightning, MAE and most others.
_NESTED = ("state_dict", "model", "model_state_dict")
MODEL_RECORD = "model_config"
"""Under this name our own checkpoints (.ckpt) and weights (.safetensors, as JSON in the header)
keep the fields of their `ModelConfig`."""
AVERAGE_RECORD = "average"
"""Under this name a checkpoint keeps averaged weights, by parameter name; they come before those
of its state dict wherever a model is only used."""
EXPORTED = "sam_train"
"""Under this key the `.json` of an exported model keeps the same fields (as `model`)."""
BESIDE = ".json"
"""Ending of the file beside an exported `.pth`."""
_LARGEST_BESIDE = 1_000_000
_FORBIDDEN = re.compile(r"GLOBAL\s+([\w.]+)")


def read_weights(path: Path) -> StateDict:
    """The tensors of a `.pth`, `.pt`, `.ckpt`, `.bin`, `.safetensors` file or a Hugging Face
    folder (`model.safetensors` or `pytorch_model.bin`, whole or sharded with an index).

    Returns names -> tensors on the CPU as stored (dtype included), from below `state_dict` or
    `model` where the file has that. Files are mapped into memory, not read at once.

    Raises:
        UserError: missing, empty, truncated or foreign file; a pickle that would run code; no
            tensors in it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path in init_from=")
    return _read_folder(path) if path.is_dir() else _read_file(path)


def read_folder_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a Hugging Face folder; {} where there is none (or `path` is a file)."""
    file = path / "config.json"
    if not file.is_file():
        return {}
    return _read_json(file)


def read_model_record(path: Path) -> dict[str, Any]:
    """The fields of the `ModelConfig` that one of our own files was made with; {} for any other
    file or folder. What `export` writes for other programs says it in a `.json`: a Hugging Face
    folder's config.json, or the one beside a `.pth`.

    Raises:
        UserError: as `read_weights`.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    if path.is_dir():
        return _exported_record(read_folder_config(path))
    head = _head(path)
    if _looks_like_safetensors(path, head):
        return _read_safetensors_record(path)
    content = _read_torch(path)
    record = content.get(MODEL_RECORD) if isinstance(content, Mapping) else None
    if isinstance(record, Mapping):
        return dict(record)
    return _exported_record(_read_beside(path.with_suffix(BESIDE)))


def _read_beside(file: Path) -> dict[str, Any]:
    """A `.json` that may be of anything: {} if it is not one of ours."""
    if not file.is_file() or file.stat().st_size > _LARGEST_BESIDE:
        return {}
    try:
        return _read_json(file)
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


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no JSON object; fetch the file again")
    return content


def _read_folder(folder: Path) -> StateDict:
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return _read_file(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder / f"{name}.index.json")
    raise UserError(
        f"{folder}: holds neither {' nor '.join(_FOLDER_FILES)} (nor an index of shards); "
        "give a folder saved by save_pretrained or name the file itself"
    )


def _read_shards(index: Path) -> StateDict:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: has no weight_map; fetch the file again")
    tensors: StateDict = {}
    for name in sorted({str(shard) for shard in weight_map.values()}):
        shard = index.parent / name
        # An index is foreign text: it may only point beside itself.
        if Path(name).name != name or not shard.is_file():
            raise UserError(f"{index}: its shard {name} is missing; fetch the folder again")
        tensors |= _read_file(shard)
    if lost := sorted(set(weight_map) - set(tensors)):
        raise UserError(
            f"{index}: {len(lost)} tensors it lists are in no shard (first: {lost[0]}); "
            "fetch the folder again"
        )
    return tensors


def _head(file: Path) -> bytes:
    """The first bytes of a file that may be weights."""
    try:
        with file.open("rb") as stream:
            head = stream.read(256)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    _refuse_other_formats(file, head)
    return head


def _read_file(file: Path) -> StateDict:
    head = _head(file)
    if _looks_like_safetensors(file, head):
        return _read_safetensors(file)
    return _tensors_of(file, _read_torch(file))


def _refuse_other_formats(file: Path, head: bytes) -> None:
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
    # A bare pickle of protocol 3 or later; torch.save writes 2.
    if head[0] == 0x80 and head[1:2] > b"\x02":
        raise UserError(
            f"{file}: refused, because a plain pickle can run code when loaded; save the state "
            "dict with torch.save or as safetensors"
        )


def _looks_like_safetensors(file: Path, head: bytes) -> bool:
    # 8 bytes of header length, then the JSON header itself.
    return file.suffix == ".safetensors" or (len(head) > 8 and head[8:10] == b'{"')


def _read_safetensors(file: Path) -> StateDict:
    try:
        tensors: StateDict = load_file(file)
    except Exception as error:  # safetensors has its own error type outside the Python hierarchy
        raise UserError(
            f"{file}: is not a whole safetensors file ({_first_line(error)}); fetch it again"
        ) from error
    if not tensors:
        raise UserError(f"{file}: holds no tensors")
    return tensors


def _read_torch(file: Path) -> Any:
    try:
        # MAE's own training script stores its command-line arguments beside the weights; a
        # Namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            mapped = zipfile.is_zipfile(file)
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # the unpickler raises almost any type on a damaged file
        if found := _FORBIDDEN.search(str(error)):
            raise UserError(
                f"{file}: refused, because loading it would run code ({found[1]}); save the "
                "state dict alone, or as safetensors"
            ) from error
        raise UserError(
            f"{file}: is not a checkpoint or is damaged ({_first_line(error)}); fetch it again"
        ) from error


def _first_line(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text is about torch.load's arguments
        return "not what torch.save writes"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:120]


def _tensors_of(file: Path, content: Any) -> StateDict:
    """The first mapping of names to tensors, at the top or one level down."""
    candidates = [content]
    if isinstance(content, Mapping):
        candidates = [*(content[key] for key in _NESTED if key in content), content]
    for candidate in candidates:
        if isinstance(candidate, Mapping):
            tensors = {str(k): v for k, v in candidate.items() if isinstance(v, Tensor)}
            if tensors:
                return tensors | _averages_of(content)
    raise UserError(
        f"{file}: holds no state dict (names -> tensors), neither at the top nor under "
        f"{', '.join(_NESTED)}"
    )


def _averages_of(content: Any) -> StateDict:
    ours = isinstance(content, Mapping) and MODEL_RECORD in content
    average = content.get(AVERAGE_RECORD) if ours else None
    if not isinstance(average, Mapping):
        return {}
    return {str(k): v for k, v in average.items() if isinstance(v, Tensor)}


__all__ = [
    "AVERAGE_RECORD",
    "BESIDE",
    "EXPORTED",
    "MODEL_RECORD",
    "read_folder_config",
    "read_model_record",
    "read_weights",
]
