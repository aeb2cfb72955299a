"""The compiled loop of `stats`: what a mask's runs say about its shape, without a bitmap."""
# ruff: noqa: PLR0917 - numba calls with positional arguments only

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of the element type that the compiled signature says."""
_INT32 = numba.int32[::1]
_INT64 = numba.int64[::1]


@numba.njit(numba.int64(_INT64, _INT64, numba.int64), nogil=True, cache=True)
def _twice_hull(xs: Array, ys: Array, n: int) -> int:
    """Compute twice the area of the convex hull of n points sorted by (x, y), by Andrew's monotone
    chain."""
    chain = np.empty(2 * n + 1, dtype=np.int64)
    k = 0
    for i in range(n):
        while k >= 2:
            a, b = chain[k - 2], chain[k - 1]
            cross = (xs[b] - xs[a]) * (ys[i] - ys[a]) - (ys[b] - ys[a]) * (xs[i] - xs[a])
            if cross > 0:
                break
            k -= 1
        chain[k] = i
        k += 1
    lower = k + 1
    for i in range(n - 2, -1, -1):
        while k >= lower:
            a, b = chain[k - 2], chain[k - 1]
            cross = (xs[b] - xs[a]) * (ys[i] - ys[a]) - (ys[b] - ys[a]) * (xs[i] - xs[a])
            if cross > 0:
                break
            k -= 1
        chain[k] = i
        k += 1
    total = 0
    for i in range(k - 1):
        a, b = chain[i], chain[i + 1]
        total += xs[a] * ys[b] - xs[b] * ys[a]
    return total


@numba.njit(
    numba.void(_INT32, _INT64, numba.int64, numba.int32[:, ::1], _INT64, numba.float64[:, ::1]),
    nogil=True,
    cache=True,
)
def shapes(
    ends: Array, starts: Array, height: int, extents: Array, masks: Array, out: Array
) -> None:
    """Measure each of the masks, none of them empty: centre of mass and area of the convex hull.

    out [m, 3]: x and y of the mean over pixel centres (a pixel's is its index + 0.5), and the
    hull of all corners of its pixels, in pixels.
    """
    for k in range(len(masks)):
        mask = masks[k]
        left = extents[mask, 0]
        columns = extents[mask, 2] - left + 1
        tops = np.full(columns, height, dtype=np.int64)
        bottoms = np.full(columns, -1, dtype=np.int64)
        area, sum_x, sum_y = 0, 0, 0
        for i in range(starts[mask] + 1, starts[mask + 1], 2):
            begin, last = int(ends[i - 1]), int(ends[i]) - 1
            if last < begin:
                continue
            for x in range(begin // height, last // height + 1):
                top = max(begin - x * height, 0)
                bottom = min(last - x * height, height - 1)
                n = bottom - top + 1
                area += n
                sum_x += n * x
                sum_y += n * (top + bottom)
                tops[x - left] = min(tops[x - left], top)
                bottoms[x - left] = max(bottoms[x - left], bottom)
        # Between two columns the corners of both lie on one line: the outermost two count.
        xs = np.empty(2 * (columns + 1), dtype=np.int64)
        ys = np.empty(2 * (columns + 1), dtype=np.int64)
        n = 0
        for edge in range(columns + 1):
            top, bottom = height, -1
            for x in range(max(edge - 1, 0), min(edge + 1, columns)):
                top, bottom = min(top, tops[x]), max(bottom, bottoms[x])
            if bottom >= 0:
                xs[n], ys[n] = left + edge, top
                xs[n + 1], ys[n + 1] = left + edge, bottom + 1
                n += 2
        out[k, 0] = sum_x / area + 0.5
        out[k, 1] = sum_y / (2 * area) + 0.5
        out[k, 2] = _twice_hull(xs, ys, n) / 2
