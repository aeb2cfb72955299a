"""The verb `export`: a checkpoint's weights for other programs, read back and compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sam_train.errors import UserError
from sam_train.export.card import CARD
from sam_train.export.card_facts import run_facts
from sam_train.export.config import check_card, dtype_of, format_of
from sam_train.export.hub import check_push, push_folder
from sam_train.export.lora_folder import check_adapters, save_adapters
from sam_train.export.write import Exported, export_model
from sam_train.model.checkpoints.trained import (
    LoadedModel,
    load_checkpoint,
    settings_for_checkpoint,
)


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
    dtype_of(cfg.dtype, format)
    check_card(cfg.card)
    if cfg.push:
        if format not in ("huggingface", "all"):
            raise UserError(f"push={cfg.push} sends a Hugging Face folder: format=huggingface")
        check_push(cfg.push)
    facts = run_facts(cfg.ckpt or cfg.init_from or "", cfg.card, default_name=out.resolve().name)
    loaded = load_checkpoint(cfg)
    for report in loaded.reports:
        print(report)
    written = (
        [_export_adapters(loaded, out, dtype=cfg.dtype)]
        if format == "lora"
        else export_model(
            loaded.sam,
            out,
            model=cfg.model,
            format=format,
            dtype=cfg.dtype,
            onnx=cfg.onnx,
            facts=facts,
        )
    )
    for one in written:
        print("\n".join(one.lines()))
    if cfg.push:
        print(f"pushed to {_push(written, cfg.push)}; a new repository is private at first")
    return out


def _export_adapters(loaded: LoadedModel, out: Path, *, dtype: str | None) -> Exported:
    """Write the adapters alone; unlike other formats they are no model by themselves."""
    cfg = loaded.cfg
    files = save_adapters(cfg, out, dtype=dtype_of(dtype, "lora"))
    check = check_adapters(loaded.sam, out, ckpt=Path(cfg.ckpt or ""), model=cfg.model)
    base = cfg.init_from or "BASE"
    note = f"use it with ckpt={out} init_from={base}, the weights that it was trained on"
    return Exported(format="lora", path=out, files=files, check=check, notes=[note])


def _push(written: Sequence[Exported], name: str) -> str:
    one = next((one for one in written if one.format == "huggingface"), None)
    if one is None:
        raise UserError(f"push={name} sends a Hugging Face folder, which only a ViT can be")
    # A card that was edited by hand was not written, but belongs to it.
    files = {*one.files, *(file for file in [one.path / CARD] if file.is_file())}
    return push_folder(one.path, name, files=sorted(files))
