"""The compiled loops of `rle`: plain arrays in, preallocated arrays out, no GIL.

They are compiled for the types written here, at the first import, and then kept on disk, so that
a first run does not pay for it in its first batch.
"""
# ruff: noqa: PLR0917 - numba calls with positional arguments only

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of the element type that the compiled signature says."""
_READ_ONLY_BYTES = numba.types.Array(numba.uint8, 1, "C", readonly=True)
_READ_ONLY_STARTS = numba.types.Array(numba.int32, 1, "C", readonly=True)
_READ_ONLY_PARTS = numba.types.Array(numba.int64, 1, "C", readonly=True)
_INT32 = numba.int32[::1]
_INT64 = numba.int64[::1]


@numba.njit(
    numba.int64(
        _READ_ONLY_BYTES, numba.int64, numba.int64, numba.int64, numba.int64, _INT32, _INT64
    ),
    nogil=True,
    cache=True,
)
def _parse_one(
    data: Array, p: int, stop: int, pixels: int, first: int, ends: Array, found: Array
) -> int:
    """Parse one string data[p:stop] to ends[first:]; found[0] = runs. Returns the status."""
    n = 0
    position = np.int64(0)
    before_last, last = np.int64(0), np.int64(0)
    while p < stop:
        value = np.int64(0)
        shift = 0
        more = True
        while more:
            if p >= stop:
                return 2
            c = np.int64(data[p]) - 48
            if c < 0 or c > 63:
                return 1
            if shift > 30:
                return 3
            value |= (c & 31) << shift
            shift += 5
            p += 1
            more = (c & 32) != 0
            if not more and (c & 16) != 0:
                # Sign extension: bit 4 of the last character stands for all higher bits.
                value |= np.int64(-1) << shift
        # From the fourth run on, the string holds the difference from two runs before.
        if n > 2:
            value += before_last
        if value < 0:
            return 4
        position += value
        # Checked at each run, so no later code can write past the image.
        if position > pixels:
            return 5
        before_last, last = last, value
        ends[first + n] = position
        n += 1
    found[0] = n
    return 0 if position == pixels else 6


@numba.njit(
    numba.int64(_INT32, numba.int64, numba.int64, numba.int64, numba.int32[:, ::1], numba.int64),
    nogil=True,
    cache=True,
)
def _measure(ends: Array, first: int, stop: int, height: int, extents: Array, k: int) -> int:
    """Measure the area of the runs ends[first:stop] and write their extent to extents[k]."""
    area = 0
    x0, y0, x1, y1 = 1 << 31, height, -1, -1
    for i in range(first + 1, stop, 2):
        begin, end = ends[i - 1], ends[i]
        # Empty runs are legal, and have no first or last row.
        if begin == end:
            continue
        area += end - begin
        left, right = begin // height, (end - 1) // height
        x0, x1 = min(x0, left), max(x1, right)
        if left == right:
            y0, y1 = min(y0, begin - left * height), max(y1, end - 1 - left * height)
        else:
            # A run that goes on in the next column touches the last and the first row.
            y0, y1 = 0, height - 1
    if area > 0:
        extents[k, 0], extents[k, 1], extents[k, 2], extents[k, 3] = x0, y0, x1, y1
    return area


@numba.njit(
    numba.void(
        _READ_ONLY_BYTES,
        _INT64,
        numba.int64,
        numba.int64,
        _INT32,
        _INT64,
        numba.int8[::1],
        _INT64,
        numba.int32[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def parse(
    data: Array,
    offsets: Array,
    height: int,
    pixels: int,
    ends: Array,
    starts: Array,
    status: Array,
    areas: Array,
    extents: Array,
) -> None:
    """Parse as `rle.parse`; status, areas and extents hold zeros before."""
    found = np.zeros(1, dtype=np.int64)
    for k in range(len(offsets) - 1):
        first = starts[k]
        status[k] = _parse_one(data, offsets[k], offsets[k + 1], pixels, first, ends, found)
        starts[k + 1] = first + (found[0] if status[k] == 0 else 0)
        areas[k] = _measure(ends, first, starts[k + 1], height, extents, k)


@numba.njit(
    numba.int64(_INT32, numba.int64, numba.int64, numba.int64, _INT64, _INT32, numba.int64),
    nogil=True,
    cache=True,
)
def _crop_one(
    ends: Array, first: int, stop: int, height: int, corners: Array, out: Array, at: int
) -> int:
    """Crop the runs ends[first:stop] to the window, to out[at:]; returns where they stop."""
    y0, x0, y1, x1 = corners[0], corners[1], corners[2], corners[3]
    rows = y1 - y0
    start = at
    for i in range(first + 1, stop, 2):
        begin, last = ends[i - 1], ends[i] - 1
        if last < begin:
            continue
        left, right = begin // height, last // height
        for x in range(max(left, x0), min(right + 1, x1)):
            top = max(y0, begin - left * height if x == left else 0)
            bottom = min(y1, last - right * height + 1 if x == right else height)
            if top >= bottom:
                continue
            # Where row 0 of the photo would lie in this column of the window.
            position = (x - x0) * rows - y0
            # The window cuts runs at every column; whole columns in a row join again.
            if at > start and out[at - 1] == position + top:
                at -= 1
            else:
                out[at] = position + top
                at += 1
            out[at] = position + bottom
            at += 1
    pixels = rows * (x1 - x0)
    if at == start or out[at - 1] < pixels:
        out[at] = pixels
        at += 1
    return at


@numba.njit(
    numba.void(
        _INT32,
        _INT64,
        numba.int64,
        _INT64,
        _INT32,
        _INT64,
        _INT64,
        numba.int32[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def crop(
    ends: Array,
    starts: Array,
    height: int,
    corners: Array,
    out: Array,
    out_starts: Array,
    areas: Array,
    extents: Array,
) -> None:
    """Crop as `rle.crop`; areas and extents hold zeros before."""
    rows = corners[2] - corners[0]
    at = 0
    for k in range(len(starts) - 1):
        begin = at
        if starts[k + 1] > starts[k]:
            at = _crop_one(ends, starts[k], starts[k + 1], height, corners, out, begin)
            areas[k] = _measure(out, begin, at, rows, extents, k)
        out_starts[k + 1] = at


@numba.njit(
    numba.void(
        _INT32,
        _INT64,
        numba.int64,
        _INT64,
        _INT64,
        numba.int64[:, ::1],
    ),
    nogil=True,
    cache=True,
)
def pixels_at(
    ends: Array, starts: Array, height: int, masks: Array, ranks: Array, out: Array
) -> None:
    """Find pixels as `rle.pixels_at`."""
    for k in range(len(masks)):
        left = ranks[k]
        for i in range(starts[masks[k]] + 1, starts[masks[k] + 1], 2):
            length = ends[i] - ends[i - 1]
            if left < length:
                position = ends[i - 1] + left
                out[k, 0] = position // height
                out[k, 1] = position % height
                break
            left -= length


@numba.njit(
    numba.void(
        _INT32,
        _INT64,
        numba.int64,
        _INT64,
        _READ_ONLY_STARTS,
        _READ_ONLY_STARTS,
        numba.uint8[:, :, ::1],
    ),
    nogil=True,
    cache=True,
)
def rasterise(
    ends: Array, starts: Array, height: int, masks: Array, rows: Array, columns: Array, out: Array
) -> None:
    """Rasterise as `rle.rasterise`; out holds zeros before."""
    for k in range(len(masks)):
        for i in range(starts[masks[k]] + 1, starts[masks[k] + 1], 2):
            begin, last = ends[i - 1], ends[i] - 1
            if last < begin:
                continue
            left, right = begin // height, last // height
            for x in range(left, right + 1):
                # No cell's centre lies on this column: most columns of a large photo.
                if columns[x] == columns[x + 1]:
                    continue
                top = begin - left * height if x == left else 0
                bottom = last - right * height if x == right else height - 1
                for row in range(rows[top], rows[bottom + 1]):
                    for column in range(columns[x], columns[x + 1]):
                        out[k, row, column] = 1


@numba.njit(
    numba.void(
        _INT32,
        _INT64,
        numba.int64,
        _INT64,
        _READ_ONLY_STARTS,
        _READ_ONLY_STARTS,
        numba.uint8[::1],
    ),
    nogil=True,
    cache=True,
)
def sampled(
    ends: Array, starts: Array, height: int, masks: Array, rows: Array, columns: Array, out: Array
) -> None:
    """Mark the masks that at least one cell of `rle.rasterise` shows; out holds zeros before."""
    for k in range(len(masks)):
        for i in range(starts[masks[k]] + 1, starts[masks[k] + 1], 2):
            begin, last = ends[i - 1], ends[i] - 1
            if last < begin:
                continue
            left, right = begin // height, last // height
            for x in range(left, right + 1):
                top = begin - left * height if x == left else 0
                bottom = last - right * height if x == right else height - 1
                if columns[x] < columns[x + 1] and rows[top] < rows[bottom + 1]:
                    out[k] = 1
                    break
            if out[k]:
                break


@numba.njit(
    numba.void(
        numba.int64[::1],
        numba.int64,
        numba.int64,
        numba.int64,
        numba.int64,
    ),
    nogil=True,
    cache=True,
)
def _cover(sums: Array, cell: int, part: int, whole: int, weight: int) -> None:
    """Add weight times what lies before an edge to every cell, as differences from cell to cell:
    the coverage of cell i is the sum of sums[i:]."""
    sums[cell] += weight * part
    if cell > 0:
        sums[cell - 1] += weight * (whole - part)


@numba.njit(
    numba.void(
        _INT32,
        _INT64,
        numba.int64,
        _INT64,
        _READ_ONLY_STARTS,
        _READ_ONLY_PARTS,
        numba.int64,
        _READ_ONLY_STARTS,
        _READ_ONLY_PARTS,
        numba.int64,
        numba.int32[:, ::1],
        numba.uint8[:, :, ::1],
    ),
    nogil=True,
    cache=True,
)
def rasterise_area(
    ends: Array,
    starts: Array,
    height: int,
    masks: Array,
    row: Array,
    row_part: Array,
    row_whole: int,
    column: Array,
    column_part: Array,
    column_whole: int,
    extents: Array,
    out: Array,
) -> None:
    """Rasterise as `rle.rasterise_area`; out holds zeros before."""
    cells = out.shape[1]
    # A run costs a few additions whatever its length: its two edges in the column's sums.
    sums = np.zeros((cells, cells + 1), dtype=np.int64)
    for k in range(len(masks)):
        mask = masks[k]
        for i in range(starts[mask] + 1, starts[mask + 1], 2):
            begin, last = ends[i - 1], ends[i] - 1
            if last < begin:
                continue
            left, right = begin // height, last // height
            for x in range(left, right + 1):
                top = begin - left * height if x == left else 0
                bottom = last - right * height + 1 if x == right else height
                for j in range(column[x], min(column[x + 1] + 1, cells)):
                    until = column_part[x + 1] if j == column[x + 1] else column_whole
                    weight = until - (column_part[x] if j == column[x] else 0)
                    if weight > 0:
                        _cover(sums[j], row[bottom], row_part[bottom], row_whole, weight)
                        # What lies before the end, less what lies before the begin.
                        _cover(sums[j], row[top], row_part[top], row_whole, -weight)
        first = min(row[extents[mask, 1]], cells - 1)
        stop = min(row[extents[mask, 3] + 1], cells - 1)
        for j in range(column[extents[mask, 0]], min(column[extents[mask, 2] + 1] + 1, cells)):
            covered = np.int64(0)
            sums[j, cells] = 0
            for r in range(stop, -1, -1):
                covered += sums[j, r]
                sums[j, r] = 0
                if r >= first:
                    # In integers, so that exactly half of a cell is half on every machine.
                    out[k, r, j] = 2 * covered >= row_whole * column_whole
