"""Settings of `export`, and what they mean together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from sam_train.errors import UserError
from sam_train.settings.sections import section, setting

FORMATS = ("safetensors", "segment_anything", "huggingface", "onnx", "onnx_pair", "lora", "all")
"""Names of the formats; `all` means the first three, in one folder."""
DTYPES = {"float16": torch.float16, "float32": torch.float32}
_BY_ENDING = {
    ".safetensors": "safetensors",
    ".pth": "segment_anything",
    ".onnx": "onnx",
    "": "huggingface",
}
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_DATASET = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ENDINGS = {name: ending for ending, name in _BY_ENDING.items()}


@section("onnx", order=10, resume="harmless")
@dataclass(kw_only=True)
class OnnxConfig:
    """The mask decoder that `export format=onnx` writes; as segment-anything's
    scripts/export_onnx_model.py. Of onnx_pair only `opset` can be chosen."""

    opset: int = 20
    """ONNX's version of its operators; the newest that needs no newer runtime than of 2024."""
    single_mask: bool = False
    """Return the best mask only: the first for several points, else the one of the other three
    with the highest predicted IoU. Off: all four."""
    stability_score: bool = False
    """Replace the predicted IoU by the stability score: the IoU of the mask cut at logits -1 and
    1 (paper B)."""


@section("card", order=11, resume="harmless")
@dataclass(kw_only=True)
class CardConfig:
    """The README.md of the Hugging Face folder that `export` writes."""

    name: str = ""
    """The model's name in the heading. Empty: the run's, else the folder's."""
    license: str = ""
    """Licence of the weights as the hub abbreviates it, such as apache-2.0 or cc-by-nc-4.0. Empty:
    the card says that none is stated."""
    data_license: str = ""
    """Licence of the data that the model was trained on, in any words."""
    datasets: list[str] = setting([])
    """The hub's names of these data sets, USER/NAME. Folders of this machine are never listed."""


def check_card(cfg: CardConfig) -> None:
    """Refuse names that the hub would refuse.

    Raises:
        UserError: names the setting and what it may be.
    """
    if cfg.license and not _LICENSE.fullmatch(cfg.license):
        raise UserError(
            f"card.license={cfg.license} is no abbreviation of the hub's, such as apache-2.0, mit, "
            "cc-by-nc-4.0 or other"
        )
    for name in cfg.datasets:
        if not _DATASET.fullmatch(name):
            raise UserError(f"card.datasets: {name} is no data set of the hub; write USER/NAME")


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
    ending = _ENDINGS.get(given, "")
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
    if format in ("onnx", "onnx_pair") and name != "float32":
        raise UserError(f"dtype={name}: {format} is written in float32; leave dtype out")
    return DTYPES[name]
