"""The compiled loop of `trace`: a mask's runs straight from the decoder's grid.

Bilinear interpolation stays between the values that it mixes, so where all cells around lie
clearly above or below every threshold, so do the pixels. Only what lies near a boundary is
interpolated, by the same operations in the same order as torch's kernel: the bits are the same.
"""
# ruff: noqa: PLR0917 - numba calls with positional arguments only

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from sam_train.masks.upscale import Axis

MARGIN = 1e-3
"""Distance from every threshold at which cells leave their pixels alone, as a part of the offset
where that is above 1. It is a thousand times what rounding can add."""
_MIXED = -1
"""Some pixels may lie on either side of a threshold. The other kinds count the thresholds (weak,
own, strong) that all pixels are above: 0 to 3."""
# What a mask's state holds while its columns are walked.
_AT, _INSIDE, _WEAK, _STRONG, _AREA, _TOP, _BOTTOM, _LEFT, _RIGHT = range(9)

Array = npt.NDArray[Any]
"""An array of the element type that the compiled signature says."""
_GRID = numba.float32[:, ::1]
_FLOATS = numba.float32[::1]
_INT32 = numba.int32[::1]
_INT64 = numba.int64[::1]
_PAIRS = numba.int32[:, ::1]
_NAMED: Any = numba.types.NamedTuple
_AXIS = _NAMED([_PAIRS, _GRID, _PAIRS, _GRID, _PAIRS, _INT32, _INT32], Axis)


def _fuse(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Fuse a * b + c, rounded once: what compilers make of torch's loop."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fma(*values)

    return numba.float32(numba.float32, numba.float32, numba.float32), build


_fused: Any = intrinsic(_fuse)


@numba.njit(numba.int32(numba.float32, _FLOATS), nogil=True, cache=True)
def _kind(value: float, cuts: Array) -> int:
    margin = np.float32(MARGIN) * max(np.float32(1), cuts[2])
    kind = 0
    for cut in cuts:
        if value > cut + margin:
            kind += 1
        elif not value < cut - margin:  # near it, or not a number
            return _MIXED
    return kind


@numba.njit(numba.void(_INT32, _INT32, numba.int64, numba.int64), nogil=True, cache=True)
def _stretches(kinds: Array, until: Array, begin: int, stop: int) -> None:
    """Find stretches among begin to stop - 1: rows i to until[i] are of one kind."""
    until[stop - 1] = stop - 1
    for i in range(stop - 2, begin - 1, -1):
        until[i] = until[i + 1] if kinds[i] == kinds[i + 1] else i


@numba.njit(
    numba.void(_GRID, numba.int64, numba.int64, _FLOATS, _INT32, _INT32), nogil=True, cache=True
)
def _classify(
    logits: Array, left: int, right: int, cuts: Array, kinds: Array, until: Array
) -> None:
    """Classify each row of the cell columns left to right: kinds[i]; rows i to until[i] are
    alike."""
    for i in range(len(kinds)):
        kinds[i] = _kind(logits[i, left], cuts)
        for j in range(left + 1, right + 1):
            if _kind(logits[i, j], cuts) != kinds[i]:
                kinds[i] = _MIXED
    _stretches(kinds, until, 0, len(kinds))


@numba.njit(
    numba.void(
        _GRID, _AXIS, _AXIS, numba.int64, numba.int64, numba.int64, _FLOATS, _GRID, _GRID,
        _INT32, _INT32,
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def _input_pixels(
    logits: Array,
    rows: Axis,
    columns: Axis,
    x: int,
    begin: int,
    stop: int,
    cuts: Array,
    across: Array,
    pair: Array,
    kinds: Array,
    until: Array,
) -> None:
    """Interpolate the input pixels of rows begin to stop - 1 in the two columns that crop column x
    lies between, to `pair`, and classify their rows."""
    for side in range(2):
        at = columns.second[side, x]
        c0, c1 = columns.first[0, at], columns.first[1, at]
        w0, w1 = columns.first_weights[0, at], columns.first_weights[1, at]
        for i in range(rows.first[0, begin], rows.first[1, stop - 1] + 1):
            across[side, i] = _fused(logits[i, c1], w1, logits[i, c0] * w0)
    for k in range(begin, stop):
        # Columns first, then rows, in torch's order: any other rounds differently.
        r0, r1 = rows.first[0, k], rows.first[1, k]
        w0, w1 = rows.first_weights[0, k], rows.first_weights[1, k]
        for side in range(2):
            pair[side, k] = _fused(across[side, r1], w1, across[side, r0] * w0)
        kinds[k] = _kind(pair[0, k], cuts)
        if _kind(pair[1, k], cuts) != kinds[k]:
            kinds[k] = _MIXED
    _stretches(kinds, until, begin, stop)


@numba.njit(
    numba.int64(numba.int64, _INT32, _INT32, _INT32, _INT32, numba.int64), nogil=True, cache=True
)
def _alike_until(
    y: int, depends: Array, ends: Array, kinds: Array, until: Array, height: int
) -> int:
    """Return where the crop rows end that are of one kind with y; y itself if it is mixed.

    Args: depends[y] is the first row of cells or pixels that y depends on; ends[i] lies behind
    the last crop row that depends on no row after i.
    """
    i = depends[y]
    return y if kinds[i] == _MIXED else min(height, max(y, ends[until[i]]))


@numba.njit(
    numba.int64(
        numba.int64, numba.int64, _INT32, _INT32, _INT32, _INT32, _PAIRS, numba.int64
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def _add_pieces(
    y: int,
    height: int,
    depends: Array,
    ends: Array,
    kinds: Array,
    until: Array,
    pieces: Array,
    n: int,
) -> int:
    """Add rows y to height - 1 as pieces of one kind, or mixed, behind the first n in `pieces`,
    where they stand as (end, kind). Returns how many there are then."""
    while y < height:
        stop = _alike_until(y, depends, ends, kinds, until, height)
        kind = kinds[depends[y]] if stop > y else _MIXED
        stop = max(stop, y + 1)
        if n and pieces[n - 1, 1] == kind:
            n -= 1
        pieces[n, 0], pieces[n, 1] = stop, kind
        n += 1
        y = stop
    return n


@numba.njit(
    numba.int64(
        _GRID, _AXIS, _AXIS, numba.int64, _FLOATS, _PAIRS, numba.int64, _GRID, _GRID, _PAIRS,
        _PAIRS,
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def _refine(
    logits: Array,
    rows: Axis,
    columns: Axis,
    x: int,
    cuts: Array,
    coarse: Array,
    number: int,
    across: Array,
    pair: Array,
    fine: Array,
    pieces: Array,
) -> int:
    """Refine the pieces of crop column x by its input pixels, where the cells alone leave it
    open."""
    n = 0
    begin = 0
    for piece in range(number):
        stop = coarse[piece, 0]
        if coarse[piece, 1] == _MIXED:
            first, last = rows.second[0, begin], rows.second[1, stop - 1] + 1
            kinds, until = fine[0], fine[1]
            _input_pixels(logits, rows, columns, x, first, last, cuts, across, pair, kinds, until)
            n = _add_pieces(
                begin, stop, rows.second[0], rows.ends_of_pixels, kinds, until, pieces, n
            )
        elif n and pieces[n - 1, 1] == coarse[piece, 1]:
            pieces[n - 1, 0] = stop
        else:
            pieces[n, 0], pieces[n, 1] = stop, coarse[piece, 1]
            n += 1
        begin = stop
    return n


@numba.njit(numba.void(numba.boolean, numba.int64, _INT32, _INT64), nogil=True, cache=True)
def _turn(on: bool, position: int, out: Array, state: Array) -> None:
    """Turn pixels `on` or off from here; a change is noted where they were not."""
    if on != (state[_INSIDE] != 0):
        out[state[_AT]] = position
        state[_AT] += 1
        state[_INSIDE] = on


@numba.njit(
    numba.void(numba.int64, numba.int64, numba.int64, numba.int64, _INT32, _INT64),
    nogil=True,
    cache=True,
)
def _alike(kind: int, y: int, stop: int, base: int, out: Array, state: Array) -> None:
    """Add pixels y to stop - 1 of a column, all of one kind."""
    _turn(kind >= 2, base + y, out, state)
    state[_WEAK] += stop - y if kind >= 1 else 0
    state[_STRONG] += stop - y if kind >= 3 else 0
    if kind >= 2:
        state[_AREA] += stop - y
        state[_TOP] = min(state[_TOP], y)
        state[_BOTTOM] = max(state[_BOTTOM], stop - 1)


@numba.njit(
    numba.void(
        _AXIS, _GRID, numba.float32, numba.float32, _FLOATS, numba.int64, numba.int64, numba.int64,
        _FLOATS, _INT32, _INT64,
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def _mixed(
    rows: Axis,
    pair: Array,
    left: float,
    right: float,
    cuts: Array,
    y: int,
    stop: int,
    base: int,
    column: Array,
    out: Array,
    state: Array,
) -> None:
    """Add pixels y to stop - 1 of a column, each with its own value, between the input pixels
    `pair` with the weights left and right."""
    for k in range(rows.second[0, y], rows.second[1, stop - 1] + 1):
        column[k] = _fused(pair[1, k], right, pair[0, k] * left)
    weak = strong = area = 0
    for k in range(y, stop):
        low, high = column[rows.second[0, k]], column[rows.second[1, k]]
        value = _fused(high, rows.second_weights[1, k], low * rows.second_weights[0, k])
        weak += value > cuts[0]
        strong += value > cuts[2]
        on = value > cuts[1]
        if on:
            area += 1
            state[_TOP] = min(state[_TOP], k)
            state[_BOTTOM] = max(state[_BOTTOM], k)
        _turn(on, base + k, out, state)
    state[_WEAK] += weak
    state[_STRONG] += strong
    state[_AREA] += area


@numba.njit(numba.boolean(_PAIRS, numba.int64), nogil=True, cache=True)
def _equal(pairs: Array, x: int) -> bool:
    """Return whether column x holds the same pair as the one before."""
    return bool(pairs[0, x] == pairs[0, x - 1] and pairs[1, x] == pairs[1, x - 1])


@numba.njit(
    numba.void(_GRID, _AXIS, _AXIS, _FLOATS, _INT64, _INT32, _INT64), nogil=True, cache=True
)
def _trace_one(
    logits: Array, rows: Axis, columns: Axis, cuts: Array, place: Array, out: Array, state: Array
) -> None:
    """Trace the changes of one mask to out[state[AT]:]; state[AT] = -1 if there is no room."""
    inside, height, width = rows.first.shape[1], rows.second.shape[1], columns.second.shape[1]
    kinds, until = np.empty(len(logits), np.int32), np.empty(len(logits), np.int32)
    coarse, pieces = np.empty((height, 2), np.int32), np.empty((height, 2), np.int32)
    across, pair = np.empty((2, len(logits)), np.float32), np.empty((2, inside), np.float32)
    fine, column = np.empty((2, inside), np.int32), np.empty(inside, np.float32)
    number = n = 0
    first = state[_AT]
    for x in range(width):
        # A column adds no more changes than it has rows, and one at either end.
        if state[_AT] + height + 2 > len(out):
            state[_AT] = -1
            return
        same_cells = x > 0 and _equal(columns.cells, x)
        if not same_cells:
            _classify(logits, columns.cells[0, x], columns.cells[1, x], cuts, kinds, until)
            number = _add_pieces(0, height, rows.cells[0], rows.ends, kinds, until, coarse, 0)
        if not (same_cells and _equal(columns.second, x)):
            n = _refine(logits, rows, columns, x, cuts, coarse, number, across, pair, fine, pieces)
        base = (place[0] + x) * place[2] + place[1]
        left, right = columns.second_weights[0, x], columns.second_weights[1, x]
        area, y = state[_AREA], 0
        for piece in range(n):
            stop, kind = pieces[piece, 0], pieces[piece, 1]
            if kind == _MIXED:
                _mixed(rows, pair, left, right, cuts, y, stop, base, column, out, state)
            else:
                _alike(kind, y, stop, base, out, state)
            y = stop
        if state[_AREA] > area:
            state[_LEFT], state[_RIGHT] = min(state[_LEFT], x), x
        # A crop that does not reach the photo's bottom ends its runs there.
        if height < place[2]:
            _turn(False, base + height, out, state)
    _turn(False, (place[0] + width) * place[2], out, state)
    # A mask that reaches the photo's last pixel has no end.
    if state[_AT] > first and out[state[_AT] - 1] == place[2] * place[3]:
        state[_AT] -= 1


@numba.njit(
    numba.int64(
        numba.float32[:, :, ::1], numba.int64, _AXIS, _AXIS, _FLOATS, _INT64, _INT32, _INT64,
        numba.int64[:, ::1],
    ),
    nogil=True,
    cache=True,
)  # fmt: skip
def trace(
    logits: Array,
    first: int,
    rows: Axis,
    columns: Axis,
    cuts: Array,
    place: Array,
    out: Array,
    starts: Array,
    found: Array,
) -> int:
    """Trace masks from `first` on: the changes of mask k to out[starts[k]:starts[k + 1]]; to
    found[k] its weak, strong and own area and its box. Returns the first mask that found no
    room."""
    height, width = rows.second.shape[1], columns.second.shape[1]
    state = np.zeros(9, np.int64)
    for k in range(first, len(logits)):
        state[:] = 0
        state[_AT], state[_TOP], state[_BOTTOM], state[_LEFT], state[_RIGHT] = (
            starts[k],
            height,
            -1,
            width,
            0,
        )
        _trace_one(logits[k], rows, columns, cuts, place, out, state)
        if state[_AT] < 0:
            return k
        starts[k + 1] = state[_AT]
        found[k, :3] = state[_WEAK : _AREA + 1]
        if state[_AREA] > 0:
            found[k, 3], found[k, 4] = state[_LEFT], state[_TOP]
            found[k, 5], found[k, 6] = state[_RIGHT], state[_BOTTOM]
    return len(logits)
