"""Tensors of a file at the shapes of a model: taken as they are, resized, or refused."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sam_train.model.checkpoints.checks import refuse_shape
from sam_train.model.checkpoints.report import InitReport, TensorEntry
from sam_train.model.checkpoints.state_dicts import (
    ENCODER,
    StateDict,
    resize_patch_kernel,
    resize_position_table,
    resize_relative_positions,
)


def fit_tensors(
    source: StateDict, target: StateDict, *, report: InitReport, path: Path
) -> StateDict:
    """Return the tensors of `source` that `target` has, at its shapes; fill the report."""
    fitted: StateDict = {}
    for name, tensor in source.items():
        if name not in target:
            continue
        shape = target[name].shape
        if tensor.shape == shape:
            fitted[name] = tensor
            report.loaded.append(TensorEntry(name=name, parameters=tensor.numel()))
            continue
        resized = _resize(name, tensor, shape)
        if resized is None:
            refuse_shape(name, tensor, shape, path=path)
        fitted[name] = resized
        report.resized.append(
            TensorEntry(name=name, parameters=resized.numel(), note=_change(tensor, resized))
        )
    return fitted


def _resize(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Resize `tensor` to `shape` where only the resolution changes, else return None."""
    # Nothing outside the encoder has a shape that depends on the resolution.
    if tensor.dim() != len(shape) or not name.startswith(f"{ENCODER}."):
        return None
    if name.endswith(".pos_embed") and tensor.shape[3] == shape[3]:
        return resize_position_table(tensor, (shape[1], shape[2]))
    if name.endswith((".rel_pos_h", ".rel_pos_w")) and tensor.shape[1] == shape[1]:
        return resize_relative_positions(tensor, shape[0])
    if name.endswith(".patch_embed.proj.weight") and tensor.shape[:2] == shape[:2]:
        return resize_patch_kernel(tensor, (shape[2], shape[3]))
    return None


def _change(old: Tensor, new: Tensor) -> str:
    """Name the sizes that changed: `37x37 -> 64x64`."""
    pairs = [(a, b) for a, b in zip(old.shape, new.shape, strict=True) if a != b]
    return f"{'x'.join(str(a) for a, _ in pairs)} -> {'x'.join(str(b) for _, b in pairs)}"
