"""The verb `export`: a checkpoint's weights for other programs, read back and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sam_train.errors import UserError
from sam_train.export.check import check_export
from sam_train.export.config import dtype_of, format_of
from sam_train.export.huggingface import save_huggingface
from sam_train.export.onnx_file import save_onnx
from sam_train.export.safetensors_file import save_weights
from sam_train.export.segment_anything import registry_name, save_segment_anything
from sam_train.model import Sam
from sam_train.model.build import resolve
from sam_train.model.checkpoints.trained import load_checkpoint, settings_for_checkpoint
from sam_train.settings.run import RunConfig


def export(overrides: Sequence[str]) -> Path:
    """Write the weights of `ckpt` to `out` in `format`, and read them back.

    Returns:
        `out`.

    Raises:
        UserError: no checkpoint, no `out`, a format, file or size that does not fit, part of a
            model, or a file that does not give back what was exported.
    """
    cfg = settings_for_checkpoint(overrides)
    if not cfg.out:
        raise UserError(
            "out is not set: name what to write, such as out=model.safetensors, out=sam.pth, "
            "out=sam.onnx, or a folder for Hugging Face"
        )
    out = Path(cfg.out).expanduser()
    format = format_of(cfg.format, out)
    dtype = dtype_of(cfg.dtype, format)
    if len(cfg.model.bands) > 3 and format != "safetensors":
        raise UserError(
            f"format={format}: other programs build SAM for three channels, and this model has "
            f"{len(cfg.model.bands)} (model.bands); use out=model.safetensors"
        )
    loaded = load_checkpoint(cfg)
    sam = loaded.sam
    for report in loaded.reports:
        print(report)
    files = _write(sam, out, format=format, dtype=dtype, cfg=cfg)
    for file in files:
        size = file.stat().st_size
        print(f"wrote {file}, {size / 1e6:.1f} MB" if size > 1e5 else f"wrote {file}")
    _explain(out, format=format, cfg=cfg)
    # The rounding was asked for; everything else should not change.
    sam.load_state_dict({name: t.to(dtype) for name, t in sam.state_dict().items()})
    check = check_export(sam, out, format=format, onnx=cfg.onnx)
    print(f"read back by {check.reader}: largest difference {check.difference:.1e} of the largest")
    return out


def _write(sam: Sam, out: Path, *, format: str, dtype: torch.dtype, cfg: RunConfig) -> list[Path]:
    if format == "segment_anything":
        return save_segment_anything(sam, out, model=cfg.model, dtype=dtype)
    if format == "huggingface":
        return save_huggingface(sam, out, model=cfg.model, dtype=dtype)
    if format == "onnx":
        return save_onnx(sam, out, cfg=cfg.onnx)
    save_weights(sam, out, model=cfg.model, dtype=dtype)
    return [out]


def _explain(out: Path, *, format: str, cfg: RunConfig) -> None:
    """Tell the reader how to load the file, where that is not plain."""
    arch = resolve(cfg.model)
    if format == "segment_anything":
        name = registry_name(arch)
        beside = out.with_suffix(".json")
        if name:
            print(f"load it with sam_model_registry[{name!r}](checkpoint={str(out)!r})")
        else:
            print(
                "segment-anything's registry has no model of these sizes: construct its classes "
                f"with the arguments in {beside}, as the code there does"
            )
    if format == "huggingface" and arch.decoder_activation == "relu":
        print(
            "the decoder's ReLU is written as SamModel's GELU with large weights: for inference; "
            "fine-tune here"
        )
