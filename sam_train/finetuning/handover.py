"""The best weights, for this program and for others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from sam_train.errors import UserError
from sam_train.export.run import export
from sam_train.settings.run import RunConfig
from sam_train.train.checkpoints import retention
from sam_train.train.fit import checkpoints_of

log = logging.getLogger("sam_train")

OUTPUTS: Mapping[str, str] = {
    "model.safetensors": "safetensors",
    "segment_anything.pth": "segment_anything",
    "huggingface": "huggingface",
}
"""Names in run_dir, and their formats."""


def best_checkpoint(cfg: RunConfig, run_dir: Path) -> Path:
    """Return the checkpoint with the best held-out score; the last one where none was measured."""
    best = retention.best_checkpoint(run_dir, checkpoints_of(cfg))
    return best or run_dir / "checkpoints" / retention.LAST


def write_weights(checkpoint: Path, run_dir: Path) -> list[str]:
    """Write the weights of a checkpoint in every format that knows such a model.

    Returns:
        The paths written.
    """
    written = []
    for name, form in OUTPUTS.items():
        out = run_dir / name
        try:
            # float32: what was measured is what is handed on.
            export([f"ckpt={checkpoint}", f"out={out}", f"format={form}", "dtype=float32"])
        except UserError as error:
            log.warning("%s was not written: %s", out, error)
            continue
        written.append(str(out))
    return written
