"""Confidence intervals by resampling images: masks of one photo are not independent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

Floats = npt.NDArray[np.float64]

_CHUNK = 1 << 22
"""Resampled counts held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A percentile bootstrap interval."""

    low: float
    high: float


def resampled_means(sums: Floats, counts: Floats, *, times: int, seed: int = 0) -> Floats:
    """Means over masks under resampling of the images, with replacement.

    Args:
        sums: [n] or [n, k]: per image, the sum of its masks' values (k kinds of value).
        counts: [n]: per image, how many masks.
        times: resamplings.
        seed: of the draws: figures of the same seed and n are resampled together.

    Returns:
        [times] or [times, k].
    """
    rng = np.random.default_rng(seed)
    n = len(counts)
    means = []
    for start in range(0, times, step := max(1, _CHUNK // max(n, 1))):
        size = min(step, times - start)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)
        total = drawn @ counts
        summed = drawn @ sums
        means.append(summed / (total if sums.ndim == 1 else total[:, None]))
    return np.concatenate(means) if means else np.empty((0, *sums.shape[1:]))


def interval(means: Floats, *, confidence: float, units: float | None = None) -> Interval:
    """Return the middle part of resampled means [times]; both ends NaN if there are none.

    Args:
        means: from `resampled_means`.
        confidence: share of the means between the ends.
        units: how many equally large units were resampled, above 1; see `effective_units`. A few
            vary less among themselves than what they were drawn from, so the percentiles lie
            further out: Hesterberg 2015 ("What Teachers Should Know about the Bootstrap"),
            expanded percentile interval. None: plain.
    """
    if not len(means):
        return Interval(low=float("nan"), high=float("nan"))
    tail = (1 - confidence) / 2
    if units is not None:
        further = float(ndtr(math.sqrt(units / (units - 1)) * stdtrit(units - 1, tail)))
        # scipy has no t of hardly any degree of freedom.
        tail = 0.0 if math.isnan(further) else further
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))


def effective_units(counts: Floats) -> float:
    """Return how many equally large units say as much as units of `counts` [n] masks (Kish)."""
    return float(counts.sum() ** 2 / (counts**2).sum())
