"""Plain data beside weights is no obstacle, code is; and folders and files that are no weights."""

from __future__ import annotations

import argparse
import datetime
import decimal
import os
import pathlib
import pickle
import types
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tiny_sam import changed, copy_of, randomised, tiny

from sam_train.errors import UserError
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import load_whole
from sam_train.model.checkpoints.weight_files import read_weights

HARMLESS = {
    "numpy scalars": [np.float64(0.5), np.int64(3), np.bool_(True), np.float32(1), np.str_("a")],
    "numpy arrays": [
        np.arange(6.0).reshape(2, 3),
        np.array(["a", "b"]),
        np.random.MT19937(0).state,
    ],
    "numpy dtype": np.dtype("f4"),
    "paths": [pathlib.Path("/a/b"), pathlib.PurePosixPath("c"), pathlib.PureWindowsPath("d:/e")],
    "arguments": argparse.Namespace(lr=1e-3, out=pathlib.Path("x"), nested={"a": (1, 2)}),
    "namespace": types.SimpleNamespace(a=1),
    "mappings": [OrderedDict(a=1), defaultdict(list, a=[1]), Counter("abc"), {1: {2: {3: 4}}}],
    "collections": [{1, 2}, frozenset([3]), deque([1, 2], maxlen=3), slice(1, 2), range(3)],
    "dates": [
        datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC),
        datetime.date(2026, 1, 2),
        datetime.timedelta(1),
    ],
    "numbers": [decimal.Decimal("1.5"), 1j, uuid.UUID(int=5), b"bytes"],
    "torch": [torch.float32, torch.device("cpu"), torch.__version__, torch.Size([1])],
    "omegaconf": OmegaConf.create({"a": {"b": [1, 2.5, "x", None, True]}, "p": "${a.b}"}),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_plain_data_beside_weights(name: str, tmp_path: Path) -> None:
    source, sam = randomised(), tiny()
    content = {"extra": HARMLESS[name], "model": copy_of(source), "more": [HARMLESS[name]]}
    torch.save(content, tmp_path / "a.pth")
    load_whole(sam, str(tmp_path / "a.pth"), InitConfig())
    assert not changed(copy_of(source), sam)


def test_names_of_other_versions_and_systems(tmp_path: Path) -> None:
    """numpy before 2.0 and Windows write other names for the same things."""
    source, sam = randomised(), tiny()
    content = {"model": copy_of(source), "a": np.arange(3), "b": np.float64(2), "p": Path("/x")}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for old, new in ((b"numpy._core.", b"numpy.core."), (b"\nPosixPath", b"\nWindowsPath")):
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)
    load_whole(sam, str(path), InitConfig())
    assert not changed(copy_of(source), sam)


def test_weights_as_numpy_arrays(tmp_path: Path) -> None:
    source = randomised()
    arrays = {name: tensor.numpy() for name, tensor in source.state_dict().items()}
    torch.save({"model": arrays}, tmp_path / "a.pth")
    np.savez(tmp_path / "b.npz", **arrays)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    for name in ("a.pth", "b.npz", "c.npz"):
        sam = tiny()
        load_whole(sam, str(tmp_path / name), InitConfig())
        assert not changed(copy_of(source), sam)


class Runs:
    """Unpickling this calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Own:
    """An object of some program."""


@pytest.mark.parametrize("where", ["beside", "inside Namespace", "instead", "old file"])
def test_whatever_would_run_code_is_refused_by_name(where: str, tmp_path: Path) -> None:
    trap, path = tmp_path / "ran", tmp_path / "a.pth"
    for bad, name in (
        (Runs(os.mkdir, str(trap)), "posix.mkdir"),
        (Runs(eval, f"__import__('os').mkdir({str(trap)!r})"), "eval"),
        (Runs(getattr, Own, "x"), "Own"),
        (Own(), "Own"),
    ):
        content: Any = {"model": randomised().state_dict(), "extra": bad}
        if where == "inside Namespace":
            content["extra"] = argparse.Namespace(x=[bad])
        if where == "instead":
            content = bad
        torch.save(content, path, _use_new_zipfile_serialization=where != "old file")
        with pytest.raises(UserError, match="run code") as caught:
            read_weights(path)
        assert name in str(caught.value)
        assert not trap.exists()


def test_an_array_of_objects_runs_nothing(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    array = np.array([Runs(os.mkdir, str(trap))], dtype=object)
    torch.save({"model": randomised().state_dict(), "extra": array}, tmp_path / "a.pth")
    np.savez(tmp_path / "b.npz", extra=array)
    for name in ("a.pth", "b.npz"):
        with pytest.raises(UserError):
            read_weights(tmp_path / name)
    assert not trap.exists()


def write_others(folder: Path) -> None:
    state = randomised().state_dict()
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(folder / "script.pt"))
    for protocol in (2, 4):
        (folder / f"plain{protocol}.pth").write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    torch.save(randomised(), folder / "object.pth")
    (folder / "graph.onnx").write_bytes(b"\x08\x08")
    (folder / "cut.npz").write_bytes(b"PK\x03\x04 no zip")
    for name in ("run/checkpoints", "peft", "dcp", "zero"):
        (folder / name).mkdir(parents=True)
    torch.save(state, folder / "run/checkpoints/step=5.ckpt")
    torch.save(state, folder / "run/checkpoints/last.ckpt")
    for name in ("peft/adapter_config.json", "dcp/.metadata", "zero/zero_to_fp32.py"):
        (folder / name).write_text("{}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("script.pt", "a TorchScript program, which is code"),
        ("plain2.pth", "a plain pickle can run code"),
        ("plain4.pth", "a plain pickle can run code"),
        ("object.pth", "run code (sam_train.model.sam.Sam)"),
        ("graph.onnx", "an ONNX graph, not weights"),
        ("cut.npz", "damaged or cut off"),
        ("run", "checkpoints/last.ckpt"),
        ("peft", "LoRA adapters, not a model"),
        ("dcp", "dcp_to_torch"),
        ("zero", "zero_to_fp32.py"),
    ],
)
def test_other_files_and_folders(name: str, said: str, tmp_path: Path) -> None:
    write_others(tmp_path)
    with pytest.raises(UserError) as caught:
        read_weights(tmp_path / name)
    message = str(caught.value)
    assert said in message
    assert str(tmp_path / name) in message
    assert "\n" not in message


def test_a_safetensors_whose_first_byte_is_a_pickles_is_read(tmp_path: Path) -> None:
    """The first byte is the lowest of the header's length, here 0x80."""
    path = tmp_path / "weights.safetensors"
    for padding in range(0, 256, 8):
        save_file({"image_encoder.x": torch.ones(2)}, path, metadata={"padding": "x" * padding})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        raise AssertionError("no such length")
    assert [entry.name for entry in read_weights(path)] == ["image_encoder.x"]
