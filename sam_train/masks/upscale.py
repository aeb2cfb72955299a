"""The scaling of the decoder's grid to a crop's pixels, along one axis, in exact numbers.

`Sam.postprocess` scales logits twice: to the input frame, of which the padding is cut off, and
from there to the original frame. Both are torch's bilinear interpolation; the weights here are
bit for bit those that `F.interpolate` uses in float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]


class Axis(NamedTuple):
    """An axis of both steps: grid cells (g) to input pixels (n) to crop pixels (N).

    A named tuple because compiled code takes these.
    """

    first: Indices
    """[2, n] the two cells between which an input pixel lies."""
    first_weights: Weights
    """[2, n]."""
    second: Indices
    """[2, N] the two input pixels between which a crop pixel lies."""
    second_weights: Weights
    """[2, N]."""
    cells: Indices
    """[2, N] the first and the last cell that a crop pixel depends on; both rise."""
    ends: Indices
    """[g] behind the last crop pixel that depends on no cell after cell i."""
    ends_of_pixels: Indices
    """[n] behind the last crop pixel that depends on no input pixel after pixel k."""


@lru_cache(maxsize=256)
def axis(*, cells: int, side: int, inside: int, pixels: int) -> Axis:
    """Compute the axis of g = `cells` cells, an input side of S = `side` pixels of which the photo
    fills the first `inside`, and `pixels` of the crop."""
    first, first_weights = _bilinear(cells, side)
    first, first_weights = first[:, :inside].copy(), first_weights[:, :inside].copy()
    second, second_weights = _bilinear(inside, pixels)
    spans = np.stack([first[0, second[0]], first[1, second[1]]]).astype(np.int32)
    return Axis(
        first=first,
        first_weights=first_weights,
        second=second,
        second_weights=second_weights,
        cells=spans,
        ends=_ends(spans[1], cells),
        ends_of_pixels=_ends(second[1], inside),
    )


def _ends(last: Indices, sources: int) -> Indices:
    """Count, for each of [sources], the pixels that depend on nothing after it; last[p] rises."""
    return np.searchsorted(last, np.arange(sources), side="right").astype(np.int32)


def _bilinear(size: int, out: int) -> tuple[Indices, Weights]:
    """Compute indices and weights [2, out] of torch's bilinear interpolation,
    align_corners=False."""
    places = np.arange(out, dtype=np.int32)
    if size == out:
        ones = np.ones(out, np.float32)
        return np.stack([places, places]), np.stack([ones, ones - 1])
    half = np.float32(0.5)
    scale = np.float32(size) / np.float32(out)
    # One rounding instead of two, as the fused multiply-add of torch's kernels; float64 holds the
    # product of two float32 exactly.
    exact = np.float64(scale) * (places.astype(np.float32) + half) - 0.5
    real = np.maximum(exact.astype(np.float32), np.float32(0))
    low = np.minimum(real.astype(np.int32), size - 1)
    weight = np.clip(real - low.astype(np.float32), np.float32(0), np.float32(1))
    high = np.minimum(low + 1, size - 1)
    return np.stack([low, high]), np.stack([np.float32(1) - weight, weight])
