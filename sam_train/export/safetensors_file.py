"""Our own weights as one small safetensors file that knows its model's sizes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from sam_train.errors import UserError
from sam_train.export.files import stored, whole
from sam_train.model.checkpoints.weight_files import MODEL_RECORD
from sam_train.model.config import ModelConfig
from sam_train.model.sam import Sam


def save_weights(
    sam: Sam, path: str | Path, *, model: ModelConfig, dtype: torch.dtype = torch.float16
) -> None:
    """Write the weights of `sam` and the sizes that rebuild it, in place of any earlier file.

    `load_sam`, `init_from=` and `ckpt=` read it.

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
    tensors = stored(sam.state_dict(), dtype, path=path)
    with whole(path) as unfinished:
        save_file(tensors, unfinished, metadata={MODEL_RECORD: json.dumps(asdict(model))})
