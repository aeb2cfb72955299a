"""Settings of `export`, and what they mean together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sam_train.errors import UserError
from sam_train.settings.sections import section

FORMATS = ("safetensors", "segment_anything", "huggingface", "onnx", "lora")
DTYPES = {"float16": torch.float16, "float32": torch.float32}
_BY_ENDING = {
    ".safetensors": "safetensors",
    ".pth": "segment_anything",
    ".onnx": "onnx",
    "": "huggingface",
}
_ENDINGS = {"lora": ""} | {name: ending for ending, name in _BY_ENDING.items()}


@section("onnx", order=10, resume="harmless")
@dataclass(kw_only=True)
class OnnxConfig:
    """The mask decoder that `export format=onnx` writes; as segment-anything's
    scripts/export_onnx_model.py."""

    opset: int = 20
    """ONNX's version of its operators; the newest that needs no newer runtime than of 2024."""
    single_mask: bool = False
    """Return the best mask only: the first for several points, else the one of the other three
    with the highest predicted IoU. Off: all four."""
    stability_score: bool = False
    """Replace the predicted IoU by the stability score: the IoU of the mask cut at logits -1 and
    1 (paper B)."""


def format_of(given: str | None, out: Path) -> str:
    """Choose the format to write: `format`, else by the ending of `out`.

    Raises:
        UserError: unknown, or one that `out` does not fit.
    """
    if given is None:
        if out.suffix in _BY_ENDING:
            return _BY_ENDING[out.suffix]
        raise UserError(
            f"{out}: no format is named and the ending {out.suffix} means none; name the file "
            "*.safetensors, *.pth (segment-anything) or *.onnx, or a folder without ending for "
            "Hugging Face"
        )
    if given not in FORMATS:
        raise UserError(f"format={given} is not one of {', '.join(FORMATS)}")
    ending = _ENDINGS[given]
    # A folder may have any name; a file of another ending is not recognised by its reader.
    if ending and out.suffix != ending:
        raise UserError(f"{out}: format={given} is a file, name it *{ending}")
    return given


def dtype_of(given: str | None, format: str) -> torch.dtype:
    """Choose the stored dtype: `dtype`, else float16 in safetensors, float32 elsewhere.

    Raises:
        UserError: unknown, or not possible in `format`.
    """
    name = given or ("float16" if format == "safetensors" else "float32")
    if name not in DTYPES:
        raise UserError(f"dtype={name} is not one of {', '.join(DTYPES)}")
    if format == "onnx" and name != "float32":
        raise UserError(f"dtype={name}: onnx is written in float32; leave dtype out")
    return DTYPES[name]
