"""Retention of checkpoints, a function of the files, the settings and metrics.csv alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sam_train.prompts.config import PromptsConfig
from sam_train.prompts.first import FIRST_PROMPTS
from sam_train.train.checkpoints.config import AUTO, CheckpointConfig
from sam_train.train.report.metrics_file import read_columns

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
    boxes = prompts.box_probability == 1 or all(FIRST_PROMPTS[k].is_box for k in prompts.first)
    return "val/box" if boxes else f"val/miou_{min(clicks)}"


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of a step."""
    return folder / f"step={step}.ckpt"


def steps_in(folder: Path) -> list[int]:
    """List the steps of which there is a checkpoint, whole or not, in order."""
    names = (re.fullmatch(r"step=(\d+)\.ckpt", path.name) for path in folder.glob("step=*.ckpt"))
    # As numbers: by name, step=1000 would come before step=200.
    return sorted(int(name[1]) for name in names if name)


def scores_of(run_dir: Path, metric: str) -> dict[int, float]:
    """Read a column of metrics.csv: step -> value, NaN where it was not measured."""
    path = run_dir / "metrics.csv"
    if not path.is_file():
        return {}
    columns = read_columns(path)
    steps = map(int, columns.get("step", []))
    return dict(zip(steps, columns.get(metric, []), strict=False))


def best_checkpoint(run_dir: Path, cfg: CheckpointConfig) -> Path | None:
    """Return the checkpoint of a run with the best `cfg.metric`; None where none was measured.

    Args:
        cfg: with the name of a column, see `metric_of`.
    """
    folder = run_dir / "checkpoints"
    best = _by_score(steps_in(folder), scores=scores_of(run_dir, cfg.metric), cfg=cfg)
    return path_of(folder, best[0]) if best else None


def is_stalled(scores: Mapping[int, float], cfg: CheckpointConfig) -> bool:
    """Tell whether the last `cfg.patience` measurements brought no new best.

    A function of the figures alone, so that a run that is started again answers as it did.

    Args:
        scores: step -> `cfg.metric`, up to the step in question; NaN counts as not measured.
        cfg: patience, and whether higher is better.
    """
    sign = 1 if cfg.higher_is_better else -1
    values = [sign * scores[step] for step in sorted(scores) if not math.isnan(scores[step])]
    if not cfg.patience or not values:
        return False
    # The first of equal ones: a score that only comes back is no improvement.
    return len(values) - 1 - values.index(max(values)) >= cfg.patience


def _by_score(
    steps: Iterable[int], *, scores: Mapping[int, float], cfg: CheckpointConfig
) -> list[int]:
    """Sort the steps that were measured, the best first."""
    sign = 1 if cfg.higher_is_better else -1
    measured = [step for step in steps if not math.isnan(scores.get(step, math.nan))]
    # Of two that are equally good the later: it has learnt for longer.
    return sorted(measured, key=lambda step: (sign * scores[step], step), reverse=True)


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
    best = _by_score(ordered, scores=scores, cfg=cfg)[: cfg.keep_best]
    permanent = [s for s in ordered if cfg.keep_every and s % cfg.keep_every == 0]
    return {*ordered[-cfg.keep_last :], *best, *permanent}
