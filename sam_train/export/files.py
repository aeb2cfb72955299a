"""Tensors as they are stored, and atomic writes, for the writers of all formats."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.build import resolve
from sam_train.model.checkpoints.state_dicts import StateDict
from sam_train.model.config import ModelConfig
from sam_train.model.encoders.vit import ViT
from sam_train.runtime.files import atomic


def stored(state: Mapping[str, Tensor], dtype: torch.dtype, *, path: Path) -> StateDict:
    """Copy tensors to the CPU as `dtype`, none sharing memory with another.

    Raises:
        UserError: a value that is not finite (any more).
    """
    tensors = {n: t.detach().to("cpu", dtype, copy=True).contiguous() for n, t in state.items()}
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{path}: {bad[0]} is not finite in {dtype}; take an earlier checkpoint")
    return tensors


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Offer a temporary name to write under, and rename it to `path` at the end. A reader meanwhile
    sees the old file or the new one, never half of it.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Some writers look at the ending.
        with atomic(path, ending=path.suffix) as unfinished:
            yield unfinished
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def vit_sizes(model: ModelConfig, *, format: str) -> ViT:
    """Return the sizes of a model with a ViT, the only encoder that `format` knows.

    Raises:
        UserError: another encoder.
    """
    arch = resolve(model)
    if not isinstance(arch, ViT):
        raise UserError(
            f"format={format}: its programs know SAM's ViT only, and model.name={model.name} has "
            "another encoder; use format=safetensors or format=onnx"
        )
    return arch


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as indented JSON.

    Raises:
        UserError: it cannot be written.
    """
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
