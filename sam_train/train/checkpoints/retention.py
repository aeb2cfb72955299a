"""Retention of checkpoints, a function of the files, the settings and metrics.csv alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sam_train.prompts.config import PromptsConfig
from sam_train.train.checkpoints.config import AUTO, CheckpointConfig

LAST = "last.ckpt"
"""The name of the newest checkpoint."""
GIVEN_UP = ".old"
"""The ending of a checkpoint beyond the step from which a run resumed."""


def metric_of(cfg: CheckpointConfig, *, prompts: PromptsConfig, clicks: Sequence[int]) -> str:
    """Return the column of metrics.csv by which checkpoints are kept.

    Args:
        cfg: with a column's name or `auto`.
        prompts: what the run trains on.
        clicks: numbers of clicks that its validation measures.
    """
    if cfg.metric != AUTO:
        return cfg.metric
    # A model that was only ever given boxes scores near chance at clicks.
    return "val/box" if prompts.box_probability == 1 else f"val/miou_{min(clicks)}"


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return folder / f"step={step}.ckpt"


def steps_in(folder: Path) -> list[int]:
    """List the steps of which there is a checkpoint, whole or not, in order."""
    names = (re.fullmatch(r"step=(\d+)\.ckpt", path.name) for path in folder.glob("step=*.ckpt"))
    # As numbers: by name, step=1000 would come before step=200.
    return sorted(int(name[1]) for name in names if name)


def to_keep(
    steps: Iterable[int], *, scores: Mapping[int, float], cfg: CheckpointConfig
) -> set[int]:
    """Select the newest, the best and the permanent ones of `steps`.

    Args:
        steps: the steps with a checkpoint.
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
