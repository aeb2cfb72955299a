"""The verb `export`: a checkpoint's weights as one small file that knows its sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sam_train.engine.checkpoint import load_checkpoint, settings_for_checkpoint
from sam_train.errors import UserError
from sam_train.model.export import save_weights


def export(overrides: Sequence[str]) -> Path:
    """Write the weights of `ckpt` to `out`, a float16 safetensors file with its model's sizes.

    Raises:
        UserError: no checkpoint, no `out`, a file or size that does not fit.
    """
    cfg = settings_for_checkpoint(overrides)
    if not cfg.out:
        raise UserError("out is not set: name the file to write, out=model.safetensors")
    out = Path(cfg.out)
    save_weights(load_checkpoint(cfg).sam, out, model=cfg.model)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")
    return out


__all__ = ["export"]
