"""Plots of mIoU over clicks, and of data sets beside each other at one click."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.eval.frame.bootstrap import interval
from sam_train.eval.tasks.points.scores import DatasetScores

# Distinct to colour-blind eyes (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = {"centre": "-", "random": "--"}


def draw_clicks(scores: Sequence[DatasetScores], out: Path) -> None:
    """Draw a curve per data set and kind of first click.

    Args:
        out: the PNG to write.
    """
    figure = Figure(figsize=(8.4, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    names = list(dict.fromkeys(each.name for each in scores))
    for each in scores:
        colour = _COLOURS[names.index(each.name) % len(_COLOURS)]
        clicks = np.arange(1, len(each.curve) + 1)
        label = each.name if each.first == "centre" else f"{each.name}, {each.first} first"
        axis.plot(
            clicks, each.curve, color=colour, linestyle=_DASHES[each.first], marker="o",
            markersize=4, label=label,
        )  # fmt: skip
    axis.set(ylim=(0, 1), xlabel="clicks", ylabel="mIoU over masks")
    axis.set_xticks(np.arange(1, max(len(each.curve) for each in scores) + 1))
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(out, dpi=110)


def draw_bars(scores: Sequence[DatasetScores], out: Path, *, confidence: float) -> None:
    """Draw a bar per data set, best first, with its interval and the oracle above it.

    Args:
        scores: of these, the ones with the first kind of first click are drawn.
        out: the PNG to write.
        confidence: of the interval.
    """
    shown = [each for each in scores if each.first == scores[0].first]
    key = next(key for key in shown[0].figures if key.startswith("miou_"))
    shown.sort(key=lambda each: each.figures[key])
    figure = Figure(figsize=(8.4, 1.5 + 0.42 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, each in enumerate(shown):
        value, best = each.figures[key], each.figures["oracle"]
        axis.barh(place, value, color="#0072b2", height=0.62, zorder=2)
        axis.plot([best, best], [place - 0.36, place + 0.36], color="#d55e00", lw=2.5, zorder=3)
        right = max(value, best)
        if key in each.resampled:
            ends = interval(each.resampled[key], confidence=confidence)
            axis.plot([ends.low, ends.high], [place, place], color="black", lw=1.5, zorder=4)
            right = max(right, ends.high)
        axis.annotate(
            f"{value:.3f}", (right, place), xytext=(6, 0), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
    axis.set_yticks(range(len(shown)), [f"{each.name} ({each.masks:,})" for each in shown])
    clicks = key.removeprefix("miou_")
    after = "one click" if clicks == "1" else f"{clicks} clicks"
    heading = f"most confident mask after {after} (bar), best of three after one (mark)"
    axis.set(xlim=(0, 1.08), xlabel=f"mIoU over masks; line: {confidence:.0%} interval")
    axis.set_title(heading, fontsize=10, loc="left")
    axis.grid(axis="x", alpha=0.25, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
