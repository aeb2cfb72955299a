"""The precision-recall plot of the BSDS benchmark, with curves of equal F."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.eval.tasks.edges.result import HUMAN, EdgeResult

# Distinct to colour-blind eyes (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def draw_precision_recall(results: Mapping[str, EdgeResult], out: Path, *, title: str = "") -> None:
    """Draw a curve per result with its best point, people's point, and lines of equal F.

    Args:
        results: by the name that the legend shows.
        out: the PNG to write.
        title: above the plot.
    """
    figure = Figure(figsize=(6.6, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    _equal_f(axis)
    for k, (name, result) in enumerate(results.items()):
        figures = result.figures
        colour = _COLOURS[k % len(_COLOURS)]
        # Without a pixel left precision is 0 by definition, which would draw a hook to the origin.
        there = (figures.curve.recall > 0) | (figures.curve.precision > 0)
        axis.plot(
            figures.curve.recall[there],
            figures.curve.precision[there],
            color=colour,
            linewidth=2.2,
            marker="o" if there.sum() < 20 else None,
            markersize=3.5,
            zorder=3,
            label=f"{name}: ODS {figures.ods.f:.3f}, OIS {figures.ois.f:.3f}, AP {figures.ap:.3f}",
        )
        axis.plot(
            figures.ods.recall,
            figures.ods.precision,
            marker="o",
            color=colour,
            markersize=9,
            markeredgecolor="white",
            markeredgewidth=1.5,
            zorder=4,
        )
    axis.plot(
        HUMAN.recall,
        HUMAN.precision,
        linestyle="none",
        marker="*",
        color="#333333",
        markersize=13,
        zorder=5,
        label=f"people on BSDS500: F {HUMAN.f:.2f}",
    )
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", aspect="equal")
    axis.set_xticks(np.arange(11) / 10)
    axis.set_yticks(np.arange(11) / 10)
    axis.set_title(title or "boundaries: precision over recall")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower left", framealpha=0.95, edgecolor="#dddddd")
    figure.savefig(out, dpi=120)


def _equal_f(axis: Any) -> None:
    """Draw lines of F = 0.1, ..., 0.9, each named where it leaves the plot on the right."""
    for f in np.arange(1, 10) / 10:
        recall = np.linspace(f / (2 - f), 1, 200)
        axis.plot(recall, f * recall / (2 * recall - f), color="#a8d5ba", linewidth=0.9, zorder=1)
        axis.annotate(
            f"F {f:.1f}",
            (1, f / (2 - f)),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="#4f9a6d",
            annotation_clip=False,
        )
