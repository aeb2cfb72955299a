"""Our own weights as one small safetensors file that knows its model's sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sam_train.errors import UserError
from sam_train.model.build import ModelConfig, build_from_config
from sam_train.model.init import InitConfig, initialise
from sam_train.model.sam import Sam
from sam_train.model.weight_files import MODEL_RECORD, read_model_record


def save_weights(
    sam: Sam, path: str | Path, *, model: ModelConfig, dtype: torch.dtype = torch.float16
) -> None:
    """Write the weights of `sam` and the sizes that rebuild it, in place of any earlier file.

    Args:
        sam: on any device.
        path: a `.safetensors` file; its folder is made if need be.
        model: what `sam` was built from.
        dtype: of the stored weights. float16 halves the file; its rounding, 2^-11 of a value, is
            far below what training leaves undecided.

    Raises:
        UserError: another ending, a folder that cannot be written, or a weight beyond float16.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: weights are written as safetensors; name the file *.safetensors")
    tensors = {n: t.detach().to("cpu", dtype).contiguous() for n, t in sam.state_dict().items()}
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{path}: {bad[0]} is not finite in {dtype}; take an earlier checkpoint")
    # A rename: whoever reads `path` meanwhile sees the old file or the new one, whole.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, unfinished, metadata={MODEL_RECORD: json.dumps(asdict(model))})
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def load_sam(path: str | Path) -> Sam:
    """The model that `save_weights` or training stored, at its own sizes.

    Args:
        path: one of our `.safetensors` or `.ckpt` files.

    Returns:
        float32, on the CPU, in evaluation mode.

    Raises:
        UserError: missing, damaged or foreign file, or one without the model's sizes.
    """
    cfg = recorded_model(Path(path))
    if cfg is None:
        raise UserError(
            f"{path}: does not say its model's sizes; use build_sam(name, checkpoint=...) instead"
        )
    sam = build_from_config(cfg)
    initialise(sam, str(path), InitConfig())
    return sam.eval()


def recorded_model(path: Path) -> ModelConfig | None:
    """The sizes that one of our own files was made with; None for any other checkpoint.

    Raises:
        UserError: missing or damaged file, or sizes that this version does not know.
    """
    record: Mapping[str, Any] = read_model_record(path)
    if not record:
        return None
    if unknown := sorted(set(record) - {f.name for f in fields(ModelConfig)}):
        raise UserError(
            f"{path}: its model has a setting that this version lacks ({unknown[0]}); update "
            "sam_train"
        )
    return ModelConfig(**record)


__all__ = ["load_sam", "recorded_model", "save_weights"]
