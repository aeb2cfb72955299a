"""`export_model`: a model in memory to files of any format, each read back and compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from sam_train.errors import UserError
from sam_train.export.card import CARD, check_card_file, write_card
from sam_train.export.card_facts import CardFacts
from sam_train.export.check import Check, check_export
from sam_train.export.config import OnnxConfig, dtype_of, format_of
from sam_train.export.huggingface import save_huggingface
from sam_train.export.onnx_file import save_onnx
from sam_train.export.onnx_pair import save_onnx_pair
from sam_train.export.safetensors_file import save_weights
from sam_train.export.segment_anything import registry_name, save_segment_anything
from sam_train.model import ModelConfig, Sam
from sam_train.model.build import resolve
from sam_train.model.encoders.vit import ViT

_ALL = {
    "safetensors": "model.safetensors",
    "segment_anything": "sam.pth",
    "huggingface": "huggingface",
}
"""The formats of `all`, and their places in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One format as it was written."""

    format: str
    path: Path
    """The file or folder to name to its reader."""
    files: list[Path]
    check: Check
    notes: list[str]
    """Sentences about loading it, where that is not plain."""

    def lines(self) -> list[str]:
        """Return lines for people: files with sizes, notes, the outcome of reading back."""
        sizes = [(file, file.stat().st_size) for file in self.files]
        return [
            *(f"wrote {f}, {n / 1e6:.1f} MB" if n > 1e5 else f"wrote {f}" for f, n in sizes),
            *self.notes,
            f"read back by {self.check.reader}: largest difference {self.check.difference:.1e} of "
            "the largest",
        ]


def export_model(
    sam: Sam,
    out: Path,
    *,
    model: ModelConfig,
    format: str | None = None,
    dtype: str | None = None,
    onnx: OnnxConfig | None = None,
    facts: CardFacts | None = None,
) -> list[Exported]:
    """Write `sam` to `out` and read it back; `sam` itself stays as it is.

    Args:
        sam: on any device, in any mode.
        out: a file or folder, as `format` asks.
        model: what `sam` was built from.
        format: one of `FORMATS`; None: by the ending of `out`. `all` leaves out what an encoder
            other than a ViT, or one of more than three bands, cannot be.
        dtype: float16 or float32; None: float16 for safetensors, else float32.
        onnx: settings of the ONNX formats.
        facts: for the card of a Hugging Face folder; None: its name alone.

    Returns:
        One entry per format.

    Raises:
        UserError: a format, file or size that does not fit, or a file that does not give back what
            was exported.
    """
    chosen = format_of(format, out)
    if out.is_file() and chosen in ("huggingface", "onnx_pair", "all"):
        raise UserError(f"{out}: is a file; format={chosen} writes a folder")
    places = {chosen: out}
    foreign = len(model.bands) > 3
    if foreign and chosen not in ("safetensors", "all"):
        raise UserError(
            f"format={chosen}: other programs build SAM for three channels, and this model has "
            f"{len(model.bands)} (model.bands); use out=model.safetensors"
        )
    if chosen == "all":
        whole = isinstance(resolve(model), ViT) and not foreign
        formats = list(_ALL) if whole else ["safetensors"]
        places = {one: out / _ALL[one] for one in formats}
    onnx, facts = onnx or OnnxConfig(), facts or CardFacts(name=out.resolve().name)
    # The check asks on the CPU, and rounding must not reach the caller's weights.
    own = copy.deepcopy(sam).cpu().eval()
    # The highest precision first: the copy is rounded step by step, never back.
    dtypes = {one: dtype_of(dtype, one) for one in places}
    order = sorted(places, key=lambda one: -dtypes[one].itemsize)
    return [
        _export(own, places[one], one, model=model, dtype=dtypes[one], onnx=onnx, facts=facts)
        for one in order
    ]


def _export(
    sam: Sam,
    path: Path,
    format: str,
    *,
    model: ModelConfig,
    dtype: torch.dtype,
    onnx: OnnxConfig,
    facts: CardFacts,
) -> Exported:
    if format == "segment_anything":
        files = save_segment_anything(sam, path, model=model, dtype=dtype)
    elif format == "huggingface":
        files = save_huggingface(sam, path, model=model, dtype=dtype)
        files += write_card(path, facts, model=model)
        check_card_file(path)
    elif format == "onnx":
        files = save_onnx(sam, path, cfg=onnx)
    elif format == "onnx_pair":
        files = save_onnx_pair(sam, path, cfg=onnx, title=facts.name)
    else:
        save_weights(sam, path, model=model, dtype=dtype)
        files = [path]
    notes = list(_notes(path, files, format=format, model=model, onnx=onnx))
    # The rounding was asked for; everything else should not change.
    sam.load_state_dict({name: t.to(dtype) for name, t in sam.state_dict().items()})
    check = check_export(sam, path, format=format, onnx=onnx)
    return Exported(format=format, path=path, files=files, check=check, notes=notes)


def _notes(
    path: Path, files: list[Path], *, format: str, model: ModelConfig, onnx: OnnxConfig
) -> Iterator[str]:
    """Yield what the reader must know to load the file, where that is not plain."""
    arch = resolve(model)
    if format == "segment_anything":
        name = registry_name(arch)
        if name:
            yield f"load it with sam_model_registry[{name!r}](checkpoint={str(path)!r})"
        else:
            yield (
                "segment-anything's registry has no model of these sizes: construct its classes "
                f"with the arguments in {path.with_suffix('.json')}, as the code there does"
            )
    if format == "huggingface":
        if arch.decoder_activation == "relu":
            yield (
                "the decoder's ReLU is written as SamModel's GELU with large weights: for "
                "inference; fine-tune here"
            )
        if path / CARD not in files:
            yield f"{path / CARD} was edited by hand and stays as it is"
        if any(file.suffix == ".png" for file in files):
            yield f"{CARD} shows pictures of the data: look at them before you publish"
    if format == "onnx_pair":
        yield f"opset {onnx.opset}; load {path / 'config.yaml'} as a custom model"
