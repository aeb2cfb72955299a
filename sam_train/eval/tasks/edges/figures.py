"""The figures of the BSDS benchmark from counts: ODS, OIS, AP and R50.

The rules are the official program's (Arbelaez et al., PAMI 2011, `collect_eval_bdry`). Its quirks
are included, since every published number has them. R50 is Dollar and Zitnick's (PAMI 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_train.eval.tasks.edges.counts import ImageCounts

Values = npt.NDArray[np.float64]

# Points between two neighbouring thresholds among which the best is sought.
_STEPS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of a precision-recall curve."""

    threshold: float
    recall: float
    precision: float
    f: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Precision and recall over thresholds, float64 [T] each."""

    threshold: Values
    recall: Values
    precision: Values
    f: Values

    def points(self) -> list[Point]:
        """Return the curve as T points."""
        rows = zip(self.threshold, self.recall, self.precision, self.f, strict=True)
        return [
            Point(threshold=float(t), recall=float(r), precision=float(p), f=float(f))
            for t, r, p, f in rows
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures that papers report."""

    ods: Point
    """The best point of the dataset's curve, at one threshold for all images."""
    ois: Point
    """The point of summed counts of all images, each at its own best threshold; its `threshold`
    is nan."""
    ap: float
    """Mean precision over the recalls 0, 0.01, ..., 1, with 0 beyond the curve's ends."""
    r50: float
    """Recall at precision 0.5."""
    curve: Curve
    """The curve of the whole data set."""
    images: dict[str, Point]
    """The best point of each image's curve."""


def f_measure(recall: Values, precision: Values) -> Values:
    """Return the harmonic mean; 0 where both are 0."""
    total = recall + precision
    return 2 * recall * precision / np.where(total == 0, 1, total)


def curve_of(thresholds: Sequence[float], counts: npt.NDArray[np.int64]) -> Curve:
    """Make a curve from counts int64 [4, T]: matched truth, truth, matched edges, edges.

    Recall is 0 without truth, and precision is 0 without edges.
    """
    recall = counts[0] / np.maximum(counts[1], 1)
    precision = counts[2] / np.maximum(counts[3], 1)
    return Curve(
        threshold=np.asarray(thresholds, dtype=np.float64),
        recall=recall,
        precision=precision,
        f=f_measure(recall, precision),
    )


def best_point(curve: Curve) -> Point:
    """Find the point of the highest F on the straight lines between neighbouring thresholds."""
    weight = np.linspace(0, 1, _STEPS)
    between = [
        (values[:-1, None] * (1 - weight) + values[1:, None] * weight).reshape(-1)
        for values in (curve.threshold, curve.recall, curve.precision)
    ]
    threshold, recall, precision = (
        np.concatenate([values[:1], rest])
        for values, rest in zip(
            (curve.threshold, curve.recall, curve.precision), between, strict=True
        )
    )
    f = f_measure(recall, precision)
    k = int(f.argmax())
    return Point(
        threshold=float(threshold[k]),
        recall=float(recall[k]),
        precision=float(precision[k]),
        f=float(f[k]),
    )


def average_precision(curve: Curve) -> float:
    """Return the area below the curve by the official rule: a sum over 101 recalls / 100."""
    recall, last = _unique(curve.recall)
    if recall.size < 2:
        return 0.0
    at = np.arange(101) / 100
    inside = (at >= recall[0]) & (at <= recall[-1])
    return float(np.interp(at, recall, curve.precision[last])[inside].sum() / 100)


def recall_at(curve: Curve, precision: float = 0.5) -> float:
    """Interpolate recall over precision; 0 where the curve stays below that precision.

    A curve that stays above it gives its recall at the lowest precision.
    """
    # Thresholds that find less than a thousandth are left out, as in Dollar and Zitnick's plots:
    # precision is chance there, and 0 by definition once no pixel is left.
    found = curve.recall >= 1e-3
    if not found.any():
        return 0.0
    values, last = _unique(curve.precision[found])
    wanted = max(float(values[0]), precision)
    if wanted > values[-1]:
        return 0.0
    return float(np.interp(wanted, values, curve.recall[found][last]))


def figures_of(images: Sequence[ImageCounts]) -> Figures:
    """Compute all figures of a data set.

    Args:
        images: at least one; the same thresholds in all of them.
    """
    thresholds = images[0].thresholds
    total = np.zeros((4, len(thresholds)), dtype=np.int64)
    chosen = np.zeros((4, 1), dtype=np.int64)
    points = {}
    for image in images:
        counts = np.array([image.truth_matched, image.truth, image.edges_matched, image.edges])
        curve = curve_of(thresholds, counts)
        points[image.name] = best_point(curve)
        total += counts
        # The best threshold itself and no point between two, at which there are no counts.
        k = int(curve.f.argmax())
        chosen += counts[:, k : k + 1]
    curve = curve_of(thresholds, total)
    (ois,) = curve_of([np.nan], chosen).points()
    return Figures(
        ods=best_point(curve),
        ois=ois,
        ap=average_precision(curve),
        r50=recall_at(curve),
        curve=curve,
        images=points,
    )


def _unique(values: Values) -> tuple[Values, npt.NDArray[np.intp]]:
    """Return sorted distinct values and their last places, as MATLAB's `unique` of 2011 does."""
    distinct, first_from_behind = np.unique(values[::-1], return_index=True)
    return distinct, values.size - 1 - first_from_behind
