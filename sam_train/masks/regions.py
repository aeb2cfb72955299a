"""Holes and islands of a mask, found on its runs: no bitmap is labelled (paper B).

Regions are connected over corners, those of the background too, as in segment-anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from sam_train.masks.trace import Changes

Array = npt.NDArray[Any]
"""An array of the element type that the compiled signature says."""
_INT32 = numba.int32[::1]
_INT64 = numba.int64[::1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidied:
    """A mask without small holes and islands."""

    changes: Changes
    altered: bool


def tidy(changes: Changes, photo: tuple[int, int], *, min_area: int, keep_largest: bool) -> Tidied:
    """Fill holes below `min_area` pixels, then remove islands below it.

    Args:
        changes: the mask, see `trace`.
        photo: (H, W).
        min_area: pixels.
        keep_largest: of a mask whose islands are all too small, keep the largest, as
            segment-anything does; else the mask becomes empty, as in the paper.
    """
    height, width = photo
    # Holes first, as segment-anything: a filled hole may make its island large enough to stay.
    holes = _flip(changes)
    filled, closed = _without_small(holes, height, width, min_area, False)
    solid = _flip(filled) if closed else changes
    left, opened = _without_small(solid, height, width, min_area, keep_largest)
    return Tidied(changes=left if opened else solid, altered=bool(closed or opened))


def _flip(changes: Changes) -> Changes:
    """Return the background as a mask."""
    # A mask that begins at pixel 0 has no background in front of it.
    if len(changes) and changes[0] == 0:
        return changes[1:].copy()
    return np.concatenate([np.zeros(1, np.int32), changes])


@numba.njit(numba.int64(_INT64, numba.int64), nogil=True, cache=True)
def _root(parents: Array, k: int) -> int:
    while parents[k] != k:
        # Path halving keeps the trees flat.
        parents[k] = parents[parents[k]]
        k = parents[k]
    return k


@numba.njit(numba.int64(_INT32, numba.int64, numba.int64, _INT64, _INT64), nogil=True, cache=True)
def _cut_at_columns(changes: Array, height: int, width: int, begins: Array, ends: Array) -> int:
    """Cut foreground into runs no longer than a column, to begins and ends. Returns how many."""
    n = 0
    for i in range(0, len(changes), 2):
        begin = np.int64(changes[i])
        end = np.int64(changes[i + 1]) if i + 1 < len(changes) else height * width
        while begin < end:
            begins[n] = begin
            # A run that goes on in the next column is not connected there by its order alone.
            ends[n] = min(end, (begin // height + 1) * height)
            begin = ends[n]
            n += 1
    return n


@numba.njit(
    numba.void(_INT64, _INT64, numba.int64, numba.int64, _INT64), nogil=True, cache=True
)  # fmt: skip
def _join(begins: Array, ends: Array, n: int, height: int, parents: Array) -> None:
    """Link every run to those that it touches in the column before, over corners too."""
    earlier = 0
    for k in range(n):
        column, top = begins[k] // height, begins[k] % height
        bottom = top + ends[k] - begins[k]
        while earlier < k and (
            begins[earlier] // height < column - 1
            or (
                begins[earlier] // height == column - 1
                and begins[earlier] % height + ends[earlier] - begins[earlier] < top
            )
        ):
            earlier += 1
        j = earlier
        while j < k and begins[j] // height == column - 1 and begins[j] % height <= bottom:
            a, b = _root(parents, j), _root(parents, k)
            # The smaller index becomes the root, so a root always comes first.
            parents[max(a, b)] = min(a, b)
            j += 1


@numba.njit(
    "Tuple((int32[::1], boolean))(int32[::1], int64, int64, int64, boolean)",
    nogil=True,
    cache=True,
)
def _without_small(
    changes: Array, height: int, width: int, min_area: int, keep_largest: bool
) -> tuple[Array, bool]:
    """Remove regions below min_area pixels; returns the mask and whether there were any."""
    # Every end of a column cuts one run at most.
    room = len(changes) + width + 1
    begins, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    n = _cut_at_columns(changes, height, width, begins, ends)
    parents = np.arange(n)
    _join(begins, ends, n, height, parents)
    areas = np.zeros(n, np.int64)
    for k in range(n):
        areas[_root(parents, k)] += ends[k] - begins[k]
    largest, small = 0, False
    for k in range(n):
        if parents[k] == k:
            small = small or areas[k] < min_area
            largest = k if areas[k] > areas[largest] else largest
    if not small:
        return changes, False
    only = keep_largest and areas[largest] < min_area
    out = np.empty(2 * n, np.int32)
    at = 0
    for k in range(n):
        root = _root(parents, k)
        if areas[root] < min_area and not (only and root == largest):
            continue
        # Runs that meet at the end of a column become one again.
        if at and out[at - 1] == begins[k]:
            at -= 1
        else:
            out[at] = begins[k]
            at += 1
        out[at] = ends[k]
        at += 1
    # The last run of a mask has no end if it reaches the last pixel.
    if at and out[at - 1] == height * width:
        at -= 1
    return out[:at].copy(), True
