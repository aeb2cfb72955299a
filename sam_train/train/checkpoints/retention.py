"""Retention: the checkpoints that stay, by the files, the settings and metrics.csv alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam_train.errors import UserError
from sam_train.prompts.rounds import PromptsConfig

LAST = "last.ckpt"
"""The newest checkpoint, always."""
AUTO = "auto"
"""Value of `CheckpointConfig.metric` that lets `metric_of` decide."""
GIVEN_UP = ".old"
"""Added to the name of a checkpoint beyond the step from which a run was taken up again."""


@dataclass
class CheckpointConfig:
    """When the state of a run is saved, and what is kept of it."""

    every_steps: int = 500
    """Steps between checkpoints; 0: only by time and at the end."""
    every_minutes: float = 15.0
    """Minutes after which to save, whatever the step: what a crash can cost at most; 0: never."""
    keep_last: int = 2
    """Newest checkpoints to keep, from 1; two, so that a damaged one costs no more than a few
    hundred steps."""
    keep_best: int = 1
    """Checkpoints with the best `metric` to keep as well; above 0, every step that is measured is
    saved, too."""
    metric: str = AUTO
    """Column of metrics.csv that says how good a checkpoint is. auto: `val/box` where every mask
    begins with its box (prompts.box_probability=1), because a click means nothing to such a model;
    else mIoU at the fewest clicks that are measured, `val/miou_1`."""
    higher_is_better: bool = True
    """Of `metric`: true for an IoU, false for a loss."""
    keep_every: int = 0
    """Checkpoints at multiples of this step are kept for good; 0: none."""
    background: bool = True
    """Training goes on while a copy in CPU memory is written; false spares the copy."""
    grace_seconds: float = 60.0
    """Seconds between SIGTERM or SIGUSR1 and the end: what is not saved by then is given up, so
    that the job can still requeue itself. Below what the cluster grants; 0: no limit."""


def check(cfg: CheckpointConfig) -> None:
    """Refuse what no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    if cfg.keep_last < 1:
        raise UserError(f"checkpoint.keep_last={cfg.keep_last} must be at least 1")
    for name in ("every_steps", "every_minutes", "keep_best", "keep_every", "grace_seconds"):
        if not 0 <= getattr(cfg, name) < math.inf:
            raise UserError(f"checkpoint.{name}={getattr(cfg, name)} must not be negative")


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
