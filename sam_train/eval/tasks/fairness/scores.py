"""mIoU by group with bootstrap intervals, from records to a table and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.eval.config import EvalConfig
from sam_train.eval.frame.bootstrap import Interval, interval, resampled_means
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Row, TaskResult, Value

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

# Mean and half width of the 95 % interval in percent, at 1 and at 3 points.
_PAPER = {
    "gender: feminine": (54.4, 1.7, 90.4, 0.6),
    "gender: masculine": (55.7, 1.7, 90.1, 0.6),
    "age: older": (62.9, 6.7, 92.6, 1.3),
    "age: middle": (54.5, 1.3, 90.2, 0.5),
    "age: young": (54.2, 2.2, 91.2, 0.7),
    "skin tone: 1": (52.9, 2.2, 91.0, 0.9),
    "skin tone: 2": (51.5, 1.4, 91.1, 0.5),
    "skin tone: 3": (52.2, 1.9, 91.4, 0.7),
    "skin tone: 4": (51.5, 2.7, 91.7, 1.0),
    "skin tone: 5": (52.4, 4.2, 92.5, 1.4),
    "skin tone: 6": (56.7, 6.3, 91.2, 2.4),
}
_SOURCE = "paper §6, table 2"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_FEW = 30
"""Images of a group below which its interval is hardly to be trusted."""


@dataclass(slots=True, kw_only=True)
class GroupScore:
    """A value of one attribute."""

    attribute: str
    group: str
    images: int
    masks: int
    miou: dict[int, float]
    """mIoU by number of points."""
    ends: dict[int, Interval]
    """Interval by number of points; empty for a single image."""

    @property
    def name(self) -> str:
        """The row's name."""
        return f"{self.attribute}: {self.group}"


def score(
    records: Sequence[Record], *, columns: Sequence[str], points: Sequence[int], shared: EvalConfig
) -> list[GroupScore]:
    """Score the groups that have masks, in order of attribute and name.

    Args:
        records: `groups` and `iou` [m][clicks] of each photo's masks.
        columns: attributes.
        points: numbers of clicks.
        shared: resamplings and confidence.
    """
    scores = []
    for attribute in columns:
        found = {g[attribute] for r in records for g in r["groups"] if attribute in g}
        for group in sorted(found, key=_natural):
            chosen = [_of_group(record, attribute, group, points) for record in records]
            scores.append(
                _score(attribute, group, [iou for iou in chosen if len(iou)], points, shared)
            )
    return scores


def _of_group(
    record: Record, attribute: str, group: str, points: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return IoU [m, points] of the masks of one photo that belong to a group."""
    pairs = zip(record["groups"], record["iou"], strict=True)
    rows = [[iou[n - 1] for n in points] for groups, iou in pairs if groups.get(attribute) == group]
    return np.array(rows, dtype=np.float64).reshape(-1, len(points))


def _score(
    attribute: str,
    group: str,
    iou: Sequence[npt.NDArray[np.float64]],
    points: Sequence[int],
    shared: EvalConfig,
) -> GroupScore:
    counts = np.array([len(each) for each in iou], dtype=np.float64)
    sums = np.array([each.sum(0) for each in iou])
    ends: dict[int, Interval] = {}
    # One image gives the same mean in every resample.
    if len(iou) > 1 and shared.bootstrap:
        means = resampled_means(sums, counts, times=shared.bootstrap)
        ends = {
            n: interval(means[:, k], confidence=shared.confidence) for k, n in enumerate(points)
        }
    return GroupScore(
        attribute=attribute,
        group=group,
        images=len(iou),
        masks=int(counts.sum()),
        miou=dict(zip(points, (sums.sum(0) / counts.sum()).tolist(), strict=True)),
        ends=ends,
    )


def _natural(group: str) -> tuple[int, float, str]:
    """Return a sort key that puts numbers by value before words."""
    try:
        return 0, float(group), group
    except ValueError:
        return 1, 0.0, group


def result_of(scores: Sequence[GroupScore], *, cfg: RunConfig) -> TaskResult:
    """Make the table: a row for each group, and the paper's."""
    points = sorted(set(cfg.fairness.points))
    columns = ["images", "masks"]
    for n in points:
        columns += [_points(n), *_ends(n)]
    figures: dict[str, Value] = {}
    rows = []
    for each in scores:
        values: dict[str, Value] = {"images": each.images, "masks": each.masks}
        for n in points:
            values[_points(n)] = figures[f"{each.attribute}/{each.group}/miou_{n}"] = each.miou[n]
            if n in each.ends:
                low, high = each.ends[n].low, each.ends[n].high
                values |= dict(zip(_ends(n), (low, high), strict=True))
                figures[f"{each.attribute}/{each.group}/miou_{n}_low"] = low
                figures[f"{each.attribute}/{each.group}/miou_{n}_high"] = high
        rows.append(Row(name=each.name, values=values))
    return TaskResult(
        task="fairness",
        title="Fairness: mIoU at random points, by group",
        figures=figures,
        columns=columns,
        rows=[*rows, *_published()],
        notes=_notes(scores, cfg),
    )


def _published() -> list[Row]:
    rows = []
    for name, (one, one_half, three, three_half) in _PAPER.items():
        values: dict[str, Value] = {}
        for n, mean, half in ((1, one, one_half), (3, three, three_half)):
            ends = (mean, mean - half, mean + half)
            for column, percent in zip((_points(n), *_ends(n)), ends, strict=True):
                values[column] = round(percent / 100, 4)
        rows.append(Row(name=name, values=values, source=_SOURCE))
    return rows


def _points(n: int) -> str:
    return "1 point" if n == 1 else f"{n} points"


def _ends(n: int) -> tuple[str, str]:
    return f"low {n}", f"high {n}"


def _notes(scores: Sequence[GroupScore], cfg: RunConfig) -> list[str]:
    notes = []
    if cfg.eval.bootstrap:
        notes.append(
            f"low, high: {cfg.eval.confidence:.0%} interval by {cfg.eval.bootstrap:,} resamplings "
            "of a group's images"
        )
    for (attribute, n), pairs in _apart(scores).items():
        notes.append(
            f"{attribute}: intervals that do not overlap at {_points(n)}: {', '.join(pairs)}"
        )
    if few := [each.name for each in scores if each.images < _FEW]:
        notes.append(
            f"fewer than {_FEW} images, so an interval says little: {', '.join(few[:8])}"
            f"{' and others' if len(few) > 8 else ''}"
        )
    notes.append("published: SAM ViT-H on people of MIAP (gender, age) and of a set of Meta's own")
    return notes


def _apart(scores: Sequence[GroupScore]) -> dict[tuple[str, int], list[str]]:
    """Find pairs of groups whose intervals do not overlap, by (attribute, points)."""
    found: dict[tuple[str, int], list[str]] = {}
    for one, other in combinations(scores, 2):
        if one.attribute != other.attribute:
            continue
        for n in sorted(set(one.ends) & set(other.ends)):
            a, b = one.ends[n], other.ends[n]
            if a.low > b.high or b.low > a.high:
                pairs = found.setdefault((one.attribute, n), [])
                pairs.append(f"{one.group} and {other.group}")
    return found


def draw_groups(scores: Sequence[GroupScore], out: Path, *, confidence: float) -> None:
    """Draw each group's mIoU and interval, in a panel for each number of points.

    Args:
        scores: attributes one after the other.
        out: the PNG to write.
        confidence: of the intervals.
    """
    points = sorted(scores[0].miou)
    attributes = list(dict.fromkeys(each.attribute for each in scores))
    # A gap between attributes; the first group on top.
    places = [-(k + 0.8 * attributes.index(each.attribute)) for k, each in enumerate(scores)]
    figure = Figure(figsize=(8.4, 1.6 + 0.34 * -places[-1]), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for axis, n in zip(panels, points, strict=True):
        for place, each in zip(places, scores, strict=True):
            colour = _COLOURS[attributes.index(each.attribute) % len(_COLOURS)]
            if n in each.ends:
                axis.plot([each.ends[n].low, each.ends[n].high], [place] * 2, color=colour, lw=2)
            axis.plot(each.miou[n], place, "o", color=colour, markersize=6)
            axis.annotate(
                f"{each.miou[n]:.3f}", (each.miou[n], place), xytext=(0, 6), ha="center",
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axis.set(title=_points(n), xlabel=f"mIoU over masks; line: {confidence:.0%} interval")
        axis.set_ylim(min(places) - 0.6, max(places) + 0.9)
        axis.margins(x=0.15)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    panels[0].set_yticks(places, [f"{each.name} ({each.masks:,})" for each in scores])
    figure.savefig(out, dpi=110)
