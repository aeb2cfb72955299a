"""The plots of `stats`, in the manner of the paper's Figs. 5 and 6."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from data_tools.stats_part import AXES, Stats
from sam_train.runtime.files import write_atomically
from sam_train.runtime.text import count

COLOUR = "#2f6db3"
GRID = "#dddddd"
MEAN_CELL = 20
BARS = 50
"""Most bars of a plot: more look like noise."""


def write_plots(stats: Stats, out: Path) -> list[Path]:
    """Write every plot as PNG into `out`; returns their paths."""
    plots: dict[str, Callable[[Stats], Figure]] = {
        "fig5_centres.png": centres,
        "fig6_masks.png": masks,
        "images.png": images,
        "scores.png": scores,
    }
    paths = []
    for name, plot in plots.items():
        figure = plot(stats)
        write_atomically(out / name, lambda stream, f=figure: f.savefig(stream, format="png"))  # type: ignore[misc]
        paths.append(out / name)
    return paths


def _figure(columns: int, stats: Stats) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.4 * columns, 3.7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{count(stats.images, 'image')}, {count(stats.masks, 'mask')}",
        fontsize=10,
        color="#555555",
    )
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def centres(stats: Stats) -> Figure:
    """Plot the places of the masks' centres of mass, each image scaled to a square (Fig. 5)."""
    figure = Figure(figsize=(5.0, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.subplots()
    # As multiples of an even spread: comparable between data sets of any size.
    cells = coarsened(stats.centres)
    density = cells / max(cells.mean(), 1e-12)
    top = max(float(np.quantile(density, 0.995)), 1e-12)
    shown = axes.imshow(density, extent=(0, 1, 1, 0), cmap="magma", vmin=0, vmax=top)
    figure.colorbar(shown, ax=axes, label="density (1 = evenly spread)", extend="max", shrink=0.9)
    axes.set(
        title="Centres of the masks", xlabel="x / width", ylabel="y / height",
        xticks=[0, 0.5, 1], yticks=[0, 0.5, 1],
    )  # fmt: skip
    return figure


def coarsened(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Join neighbouring cells until the mean cell holds MEAN_CELL centres, so that the map of a
    small set shows where its masks lie and not single masks."""
    while cells.mean() < MEAN_CELL and len(cells) > 8:
        half = len(cells) // 2
        cells = cells.reshape(half, 2, half, 2).sum((1, 3))
    return cells


def masks(stats: Stats) -> Figure:
    """Plot masks per image, relative mask size and concavity (Fig. 6)."""
    figure, (left, middle, right) = _figure(3, stats)
    _bars(left, stats, "masks_per_image", "Masks per image", of="images")
    _bars(
        middle, stats, "relative_size", "Relative mask size", of="masks", whole_axis=True, log=True
    )
    middle.set_xlabel(r"$\sqrt{\mathrm{mask\ area}\ /\ \mathrm{image\ area}}$")
    _bars(right, stats, "concavity", "Concavity", of="masks", whole_axis=True)
    right.set_xlabel("1 - mask area / area of the convex hull")
    return figure


def images(stats: Stats) -> Figure:
    """Plot widths and heights."""
    figure, (left, right) = _figure(2, stats)
    for axes, name in ((left, "width"), (right, "height")):
        _bars(axes, stats, name, f"Image {name}", of="images")
        axes.set_xlabel("pixels")
    return figure


def scores(stats: Stats) -> Figure:
    """Plot the model's own estimates that come with the masks."""
    figure, (left, right) = _figure(2, stats)
    _bars(left, stats, "predicted_iou", "Predicted IoU", of="masks")
    _bars(right, stats, "stability_score", "Stability score", of="masks")
    return figure


def _bars(
    axes: Axes,
    stats: Stats,
    name: str,
    title: str,
    *,
    of: str,
    whole_axis: bool = False,
    log: bool = False,
) -> None:
    quantity = stats.quantities[name]
    edges, heights = shown_bins(quantity.bins, AXES[name].edges, whole_axis=whole_axis)
    share = 100 * heights / max(heights.sum(), 1)
    axes.bar(edges[:-1], share, width=np.diff(edges), align="edge", color=COLOUR, linewidth=0)
    axes.set(title=title, ylabel=f"percent of {of}", xlim=(edges[0], edges[-1]))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.margins(y=0.12)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    number = int(quantity.bins.sum())
    if not number:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color="#888888")
        return
    mean = quantity.total / number
    axes.axvline(mean, color="black", linewidth=1, linestyle="--")
    right_half = mean > (edges[0] + edges[-1]) / 2
    axes.annotate(
        f"mean {mean:.3g}", (mean, 0.97), xycoords=("data", "axes fraction"), va="top",
        xytext=(-5 if right_half else 5, 0), textcoords="offset points",
        ha="right" if right_half else "left", fontsize=9,
    )  # fmt: skip


def shown_bins(
    bins: npt.NDArray[np.int64], edges: npt.NDArray[np.float64], *, whole_axis: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return edges and heights of at most BARS bars. Neighbouring bins are joined. Unless
    `whole_axis`, the range is that of all but the outermost values, which count in the last
    bars."""
    first, last = 0, len(bins)
    total = int(bins.sum())
    if not whole_axis and total:
        below = np.cumsum(bins)
        first = int(np.searchsorted(below, 0.001 * total, side="right"))
        last = int(np.searchsorted(below, 0.999 * total)) + 1
        # Air around a single value, so that it is seen as a bar.
        first, last = max(first - 2, 0), min(max(last + 2, first + 8), len(bins))
    together = -(-(last - first) // BARS)
    starts = np.arange(first, last, together)
    clipped: npt.NDArray[Any] = bins[first:last].copy()
    clipped[0] += bins[:first].sum()
    clipped[-1] += bins[last:].sum()
    heights = np.add.reduceat(clipped, starts - first)
    step = edges[1] - edges[0]
    return np.append(edges[starts], edges[starts[-1]] + together * step), heights
