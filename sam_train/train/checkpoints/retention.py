"""Retention: the checkpoints that stay, by the files, the settings and metrics.csv alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sam_train.prompts.config import PromptsConfig
from sam_train.train.checkpoints.config import AUTO, CheckpointConfig

LAST = "last.ckpt"
"""The newest checkpoint, always."""
GIVEN_UP = ".old"
"""Added to the name of a checkpoint beyond the step from which a run was taken up again."""


def metric_of(cfg: CheckpointConfig, *, prompts: PromptsConfig, clicks: Sequence[int]) -> str:
    """Return the column of metrics.csv by which checkpoints are kept.

    Args:
        cfg: with a column's name or `auto`.
        prompts: what the run trains on.
        clicks: numbers of clicks that its validation measures.
    """
    if cfg.metric != AUTO:
        return cfg.metric
    return "val/box" if prompts.box_probability == 1 else f"val/miou_{min(clicks)}"


def path_of(folder: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return folder / f"step={step}.ckpt"


def steps_in(folder: Path) -> list[int]:
    """List the steps that have a checkpoint, damaged ones included, in order."""
    names = (re.fullmatch(r"step=(\d+)\.ckpt", path.name) for path in folder.glob("step=*.ckpt"))
    return sorted(int(name[1]) for name in names if name)


def to_keep(
    steps: Iterable[int], *, scores: Mapping[int, float], cfg: CheckpointConfig
) -> set[int]:
    """Choose the newest, the best and the permanent ones of `steps`.

    Args:
        steps: of which there are checkpoints.
        scores: step -> `cfg.metric`, where it was measured; NaN counts as not measured.
        cfg: how many of each.
    """
    ordered = sorted(steps)
    sign = 1 if cfg.higher_is_better else -1
    measured = [s for s in ordered if not math.isnan(scores.get(s, math.nan))]
    # Of two that are equally good the later: it has learnt for longer.
    best = sorted(measured, key=lambda s: (sign * scores[s], s), reverse=True)[: cfg.keep_best]
    permanent = [s for s in ordered if cfg.keep_every and s % cfg.keep_every == 0]
    return {*ordered[-cfg.keep_last :], *best, *permanent}
