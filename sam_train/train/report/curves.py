"""Curves of a run, drawn from its metrics.csv."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.train.report.metrics_file import read_columns

Columns = dict[str, list[float]]


def draw_curves(metrics: Path, out: Path) -> None:
    """Draw loss and IoU per round, held-out mIoU, predicted and real IoU, rate, gradient norm.

    Args:
        metrics: a run's metrics.csv, of any length.
        out: the PNG to write.
    """
    columns = read_columns(metrics)
    # Fixed margins: to measure each label first takes twice as long as to draw.
    figure = Figure(figsize=(15, 8))
    figure.subplots_adjust(0.045, 0.065, 0.99, 0.955, wspace=0.2, hspace=0.26)
    # Not pyplot: it keeps every figure, and may look for a screen.
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).flatten()
    _rounds(axes[0], columns, "loss", "loss per round")
    _rounds(axes[1], columns, "iou", "IoU per round (training masks)")
    _clicks(axes[2], columns)
    _predicted(axes[3], columns)
    _line(axes[4], columns, "lr", "learning rate")
    if "muon_lr" in columns:
        axes[4].plot(*_series(columns, "muon_lr"), color="#e0762f", label="muon_lr")
        axes[4].legend(frameon=False)
    _line(axes[5], columns, "grad_norm", "gradient norm (before clipping)")
    # Without a positive value a logarithmic axis has nothing to show, and warns.
    if any(value > 0 for value in columns.get("grad_norm", [])):
        axes[5].set_yscale("log")
    for axis in axes:
        # A title without a height of its own makes matplotlib measure the whole axis first.
        axis.set_title(axis.get_title(), y=1.0)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=100)


def _series(columns: Columns, name: str) -> tuple[list[float], list[float]]:
    pairs = zip(columns.get("step", []), columns.get(name, []), strict=False)
    # A column that came later, or a score measured now and then, is NaN elsewhere.
    kept = [(step, value) for step, value in pairs if math.isfinite(value)]
    return [step for step, _ in kept], [value for _, value in kept]


def _smooth(values: list[float]) -> list[float]:
    """Take a running mean over about a thirtieth of the run, shorter at its ends."""
    half = len(values) // 60
    if half == 0:
        return values
    # Differences of a cumulative sum: linear in the run's length, whatever the window.
    sums = np.cumsum([0.0, *values])
    lo = np.maximum(np.arange(len(values)) - half, 0)
    hi = np.minimum(np.arange(len(values)) + half + 1, len(values))
    smoothed: list[float] = ((sums[hi] - sums[lo]) / (hi - lo)).tolist()
    return smoothed


def _colour(share: float) -> Any:
    # The last tenth of viridis is a yellow that white paper hides.
    return colormaps["viridis"](0.9 * share)


def _rounds(axis: Any, columns: Columns, quantity: str, title: str) -> None:
    axis.set_title(title)
    # Exactly `loss_r00`: the terms have columns such as `loss_focal_r00`.
    names = sorted(name for name in columns if re.fullmatch(rf"{quantity}_r\d+", name))
    for r, name in enumerate(names):
        steps, values = _series(columns, name)
        # Eleven labels would hide the curves; the colours in between say the order.
        ends = r in (0, len(names) - 1)
        axis.plot(
            steps,
            _smooth(values),
            color=_colour(r / max(len(names) - 1, 1)),
            linewidth=2.0 if ends else 0.9,
            label=f"round {r + 1}" if ends else None,
        )
    if names:
        axis.legend(frameon=False)
    if quantity == "iou":
        axis.set_ylim(0, 1)


def _clicks(axis: Any, columns: Columns) -> None:
    axis.set(title="held-out mIoU by clicks and box, 95 % intervals", ylim=(0, 1))
    numbers = sorted(int(name[9:]) for name in columns if re.fullmatch(r"val/miou_\d+", name))
    for i, n in enumerate(numbers):
        label = "1 click" if n == 1 else f"{n} clicks"
        colour = _colour(i / max(len(numbers) - 1, 1))
        _scores(axis, columns, f"val/miou_{n}", color=colour, label=label)
    if "val/oracle" in columns:
        _scores(axis, columns, "val/oracle", color="#e0483e", linestyle="--", label="1, oracle")
    if "val/box" in columns:
        _scores(axis, columns, "val/box", color="#8a5a2b", linestyle=":", label="box")
    if numbers:
        axis.legend(frameon=False, ncols=2)
    else:
        axis.text(0.5, 0.5, "not measured yet", ha="center", transform=axis.transAxes)


def _scores(axis: Any, columns: Columns, name: str, *, color: Any, **style: Any) -> None:
    """Draw one held-out score over the steps, and its 95 % interval as a band where it has one."""
    axis.plot(*_series(columns, name), marker="o", markersize=4, color=color, **style)
    steps, low = _series(columns, f"{name}_low")
    _, high = _series(columns, f"{name}_high")
    # Older files have scores without intervals.
    if low and len(low) == len(high):
        axis.fill_between(steps, low, high, color=color, alpha=0.13, linewidth=0)


def _predicted(axis: Any, columns: Columns) -> None:
    axis.set(title="predicted (dashed) and real IoU", ylim=(0, 1))
    names = sorted(name for name in columns if re.fullmatch(r"iou_r\d+", name))
    # First and last round; one of them where there is only one round.
    for name in dict.fromkeys(names[:1] + names[-1:]):
        last = name != names[0]
        colour = _colour(1.0 if last else 0.0)
        for column, style in ((name, "-"), (f"predicted_{name}", "--")):
            steps, values = _series(columns, column)
            label = f"round {int(name[-2:]) + 1}" if style == "-" else None
            axis.plot(steps, _smooth(values), style, color=colour, label=label)
    if names:
        axis.legend(frameon=False)


def _line(axis: Any, columns: Columns, name: str, title: str) -> None:
    axis.set_title(title)
    steps, values = _series(columns, name)
    axis.plot(steps, values, color="#1e88ff", alpha=0.35)
    axis.plot(steps, _smooth(values), color="#1e88ff")
