"""The best weights, for this program and for others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from sam_train.errors import UserError
from sam_train.export.run import export
from sam_train.settings.run import RunConfig
from sam_train.train.checkpoints.retention import LAST, metric_of, path_of, steps_in
from sam_train.train.report.metrics_file import read_columns

log = logging.getLogger("sam_train")

OUTPUTS: Mapping[str, str] = {
    "model.safetensors": "safetensors",
    "segment_anything.pth": "segment_anything",
    "huggingface": "huggingface",
}
"""Names in run_dir, and their formats."""


def best_checkpoint(cfg: RunConfig, run_dir: Path) -> Path:
    """Return the checkpoint with the best held-out score; the last one where none was measured."""
    folder, metrics = run_dir / "checkpoints", run_dir / "metrics.csv"
    clicks = cfg.callbacks.validation.clicks
    metric = metric_of(cfg.checkpoint, prompts=cfg.prompts, clicks=clicks)
    columns = read_columns(metrics) if metrics.is_file() else {}
    pairs = zip(map(int, columns.get("step", [])), columns.get(metric, []), strict=False)
    scores = {step: score for step, score in pairs if score == score}  # noqa: PLR0124 - not NaN
    kept = [step for step in steps_in(folder) if step in scores]
    if not kept:
        return folder / LAST
    sign = 1 if cfg.checkpoint.higher_is_better else -1
    return path_of(folder, max(kept, key=lambda step: (sign * scores[step], step)))


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
