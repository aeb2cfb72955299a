"""Run lengths of a photo that is flipped, without making a bitmap."""
# ruff: noqa: PLR0917 - numba calls with positional arguments only

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from sam_train.masks.rle import Runs
from sam_train.masks.rle_kernels import Array

_SIGNATURE = (numba.int32[::1], numba.int64[::1], numba.int64, numba.int32[::1], numba.int64[::1])


@numba.njit(
    numba.int64(numba.int32[::1], numba.int64, numba.int64, numba.int64, numba.boolean),
    nogil=True,
    cache=True,
)
def _close(out: Array, begin: Any, at: Any, pixels: int, valid: bool) -> Any:
    """Write the background behind the last run, as every parsed mask has it."""
    if valid and (at == begin or out[at - 1] < pixels):
        out[at] = pixels
        at += 1
    return at


@numba.njit(
    numba.int64(
        numba.int64[::1],
        numba.int64[::1],
        numba.int64,
        numba.int64,
        numba.int64,
        numba.int32[::1],
        numba.int64,
        numba.int64,
    ),
    nogil=True,
    cache=True,
)
def _emit(
    tops: Array,
    bottoms: Array,
    held: int,
    offset: Any,
    height: int,
    out: Array,
    begin: Any,
    at: Any,
) -> Any:
    """Append a column's segments upside down; a run that goes on from the column before joins."""
    for s in range(held - 1, -1, -1):
        top, bottom = offset + height - bottoms[s], offset + height - tops[s]
        if at > begin and out[at - 1] == top:
            at -= 1
        else:
            out[at] = top
            at += 1
        out[at] = bottom
        at += 1
    return at


@numba.njit(numba.void(*_SIGNATURE), nogil=True, cache=True)
def _half_turn(ends: Array, starts: Array, pixels: int, out: Array, out_starts: Array) -> None:
    """Read each mask's list of runs backwards; pixel p becomes pixels - 1 - p."""
    at = 0
    for k in range(len(starts) - 1):
        first, stop = starts[k], starts[k + 1]
        # Foreground runs stand at odd places. The last run is background where that place is even.
        last = stop - 1 if (stop - first) % 2 == 0 else stop - 2
        for i in range(last, first, -2):
            if ends[i] == ends[i - 1]:
                continue
            out[at] = pixels - ends[i]
            out[at + 1] = pixels - ends[i - 1]
            at += 2
        at = _close(out, out_starts[k], at, pixels, stop > first)
        out_starts[k + 1] = at


@numba.njit(numba.void(*_SIGNATURE[:3], numba.int64, *_SIGNATURE[3:]), nogil=True, cache=True)
def _reverse_rows(
    ends: Array, starts: Array, height: int, pixels: int, out: Array, out_starts: Array
) -> None:
    """Mirror the rows inside each column; row y becomes height - 1 - y."""
    at = 0
    # The segments of one column, from the top; two of them never touch, so half of its rows do.
    tops = np.empty(height // 2 + 1, dtype=np.int64)
    bottoms = np.empty(height // 2 + 1, dtype=np.int64)
    for k in range(len(starts) - 1):
        column, held = np.int64(-1), 0
        for i in range(starts[k] + 1, starts[k + 1], 2):
            begin, last = ends[i - 1], ends[i] - 1
            if last < begin:
                continue
            left, right = begin // height, last // height
            for x in range(left, right + 1):
                if x != column:
                    at = _emit(tops, bottoms, held, column * height, height, out, out_starts[k], at)
                    column, held = np.int64(x), 0
                tops[held] = begin - left * height if x == left else 0
                bottoms[held] = last - right * height + 1 if x == right else height
                # Empty runs of the source may leave two segments that touch.
                if held > 0 and bottoms[held - 1] == tops[held]:
                    bottoms[held - 1] = bottoms[held]
                else:
                    held += 1
        at = _emit(tops, bottoms, held, column * height, height, out, out_starts[k], at)
        at = _close(out, out_starts[k], at, pixels, starts[k + 1] > starts[k])
        out_starts[k + 1] = at


def flip(runs: Runs, *, width: int, across: bool, down: bool) -> Runs:
    """Return the masks of the same photo with its columns reversed, its rows, or both.

    Args:
        width: W.
        across: reverse the order of columns (a horizontal flip).
        down: reverse the order of rows.

    Returns:
        Runs of the flipped photo; areas and status are those of `runs`.
    """
    if not across and not down:
        return runs
    pixels = runs.height * width
    flipped = runs
    if across:
        # Positions are column-major, so the list read backwards is the photo turned by 180 degrees.
        flipped = _made(flipped, width=width, ends=_turned(runs, pixels), turn=True)
    # A half turn is both flips, so the rows are reversed where just one of them was asked for.
    if across != down:
        # A column cuts a run at most once more; the last number closes the background.
        room = len(runs.ends) + 2 * _columns(runs) + 2 * len(runs.status)
        ends = np.empty(room, dtype=np.int32)
        starts = np.zeros(len(runs.starts), dtype=np.int64)
        _reverse_rows(flipped.ends, flipped.starts, runs.height, pixels, ends, starts)
        flipped = _made(flipped, width=width, ends=(ends[: starts[-1]].copy(), starts), turn=False)
    return flipped


def _columns(runs: Runs) -> int:
    """Count the columns that the masks extend over, added up."""
    return int((runs.extents[:, 2] - runs.extents[:, 0] + 1).sum())


def _turned(runs: Runs, pixels: int) -> tuple[Array, Array]:
    """Return ends and starts of the runs read backwards."""
    ends = np.empty(len(runs.ends) + 2 * len(runs.status), dtype=np.int32)
    starts = np.zeros(len(runs.starts), dtype=np.int64)
    _half_turn(runs.ends, runs.starts, pixels, ends, starts)
    return ends[: starts[-1]].copy(), starts


def _made(runs: Runs, *, width: int, ends: tuple[Array, Array], turn: bool) -> Runs:
    """Put new ends and starts into `runs` and flip the extents likewise."""
    x0, y0, x1, y1 = runs.extents.T
    there = runs.areas > 0
    if turn:
        x0, x1 = width - 1 - x1, width - 1 - x0
    extents = np.stack([x0, runs.height - 1 - y1, x1, runs.height - 1 - y0], axis=1)
    # An empty mask keeps its zeros.
    extents = np.where(there[:, None], extents, 0).astype(np.int32)
    return Runs(
        height=runs.height,
        ends=ends[0],
        starts=ends[1],
        status=runs.status,
        areas=runs.areas,
        extents=extents,
    )
