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
    """Resample the images with replacement and return each resample's mean over masks.

    Args:
        sums: [n] or [n, k]: per image, the sum of its masks' values (k kinds of value).
        counts: [n]: per image, the number of its masks.
        times: resamplings.
        seed: of the draws. Figures of the same seed and n are resampled together.

    Returns:
        [times] or [times, k].
    """
    # A draw with replacement as multinomial counts, so that means are two matrix products.
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
        units: number of equally large units that were resampled, above 1 (`effective_units`).
            Few units vary less than what they were drawn from, so the percentiles lie further
            out. This is the expanded percentile interval of Hesterberg 2015 ("What Teachers
            Should Know about the Bootstrap"). None gives the plain one.
    """
    if not len(means):
        return Interval(low=float("nan"), high=float("nan"))
    tail = (1 - confidence) / 2
    if units is not None:
        further = float(ndtr(math.sqrt(units / (units - 1)) * stdtrit(units - 1, tail)))
        # scipy's t is NaN for hardly any degree of freedom; then the interval takes all means.
        tail = 0.0 if math.isnan(further) else further
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))


def effective_units(counts: Floats) -> float:
    """Return the number of equally large units worth as much as units of `counts` [n] (Kish)."""
    return float(counts.sum() ** 2 / (counts**2).sum())
