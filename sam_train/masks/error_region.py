"""The next click of a patient person: the deepest pixel of the region that is still wrong.

All arrays here are [row, column] in the original frame. Compiled, because distance transforms at
the original resolution are what evaluating by clicks costs on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

Bitmap = npt.NDArray[np.uint8]


@dataclass(slots=True, frozen=True, kw_only=True)
class Click:
    """A click in the original frame."""

    row: int
    column: int
    foreground: bool
    """True on a missed part of the object, False on what was wrongly taken."""


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _bounds(inside: Bitmap, outside: Bitmap) -> tuple[int, int, int, int]:
    """Find first and last row and column (inclusive) of `inside and not outside`; 0, -1 if
    empty."""
    top, bottom, left, right = inside.shape[0], -1, inside.shape[1], -1
    for i in range(inside.shape[0]):
        for j in range(inside.shape[1]):
            if inside[i, j] != 0 and outside[i, j] == 0:
                top = min(top, i)
                bottom = i
                left = min(left, j)
                right = max(right, j)
    return top, bottom, left, right


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _column_distances(
    inside: Bitmap, outside: Bitmap, bounds: tuple[int, int, int, int]
) -> npt.NDArray[np.int64]:
    """Measure how far each pixel of the region is from the nearest row outside it in its own
    column."""
    top, bottom, left, right = bounds
    height, width = bottom - top + 1, right - left + 1
    # One column of zeros at either side stands for everything beyond the bounding box: no pixel
    # outside the box is nearer to the region than its projection onto that border.
    distances = np.zeros((height, width + 2), dtype=np.int64)
    for i in range(height):
        for j in range(width):
            if inside[top + i, left + j] != 0 and outside[top + i, left + j] == 0:
                distances[i, j + 1] = 1 + (distances[i - 1, j + 1] if i > 0 else 0)
    for j in range(1, width + 1):
        # The row below the bounding box is outside the region, or beyond the image.
        distances[height - 1, j] = min(distances[height - 1, j], 1)
    for i in range(height - 2, -1, -1):
        for j in range(1, width + 1):
            distances[i, j] = min(distances[i, j], distances[i + 1, j] + 1)
    return distances


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _lower_envelope(
    line: npt.NDArray[np.int64], apex: npt.NDArray[np.int64], start: npt.NDArray[np.int64]
) -> int:
    """Find which column's parabola (x - column)^2 + line[column]^2 is lowest, and from where on.

    Fills `apex` (columns) and `start` (first x where each is lowest); returns the last index used.
    """
    last = 0
    apex[0], start[0] = 0, 0
    for u in range(1, line.shape[0]):
        while last >= 0:
            a, x = apex[last], start[last]
            if (x - a) ** 2 + line[a] ** 2 <= (x - u) ** 2 + line[u] ** 2:
                break
            last -= 1
        if last < 0:
            last = 0
            apex[0], start[0] = u, 0
            continue
        a = apex[last]
        # Integers throughout: the place where two parabolas meet decides which pixel is deepest.
        meet = 1 + (u * u - a * a + line[u] ** 2 - line[a] ** 2) // (2 * (u - a))
        if meet < line.shape[0]:
            last += 1
            apex[last], start[last] = u, meet
    return last


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _deepest(inside: Bitmap, outside: Bitmap) -> tuple[int, int, int]:
    """Return the squared Euclidean distance to the boundary at the deepest pixel of a region.

    The region is `inside and not outside`, and what lies beyond the image counts as outside it.
    Exact and linear in the area of the bounding box (Meijster, Roerdink, Hesselink 2000): the
    distance of a row is the lower envelope of one parabola per column.

    Returns:
        squared distance (0 for an empty region), row, column; the first in row-major order.
    """
    bounds = _bounds(inside, outside)
    if bounds[1] < 0:
        return 0, -1, -1
    g = _column_distances(inside, outside, bounds)
    apex = np.empty(g.shape[1], dtype=np.int64)
    start = np.empty(g.shape[1], dtype=np.int64)
    best, best_row, best_column = 0, -1, -1
    for i in range(g.shape[0]):
        line = g[i]
        # No pixel is deeper than its distance within its own column.
        if line.max() ** 2 <= best:
            continue
        last = _lower_envelope(line, apex, start)
        k = 0
        for u in range(line.shape[0]):
            while k < last and start[k + 1] <= u:
                k += 1
            squared = (u - apex[k]) ** 2 + line[apex[k]] ** 2
            if squared > best:
                best, best_row, best_column = squared, i, u
    # The column of zeros at the left is no column of the box.
    return best, best_row + bounds[0], best_column - 1 + bounds[2]


def mask_iou(predicted: Bitmap, truth: Bitmap) -> float:
    """Compute the intersection over union of two [H, W] masks of {0, 1}; 1 where both are empty."""
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else 1.0


def deepest_error(predicted: Bitmap, truth: Bitmap) -> Click | None:
    """Find the pixel farthest from the boundary of the error region (paper D, "points to masks").

    What is missed and what is wrongly taken are two regions, because a click can say only one of
    the two things; the deeper one is clicked, the missed one of equals. The border of the image
    is a boundary. With an empty prediction this is the first click: the centre of the truth.

    Args:
        predicted: uint8 [H, W] of {0, 1}, original frame.
        truth: the same shape.

    Returns:
        The click, or None where nothing is wrong.
    """
    missed, missed_row, missed_column = _deepest(truth, predicted)
    taken, taken_row, taken_column = _deepest(predicted, truth)
    if missed == 0 and taken == 0:
        return None
    # Squared distances compare like distances.
    if missed >= taken:
        return Click(row=missed_row, column=missed_column, foreground=True)
    return Click(row=taken_row, column=taken_column, foreground=False)


def centre(truth: Bitmap) -> Click | None:
    """Find the pixel of a mask farthest from its boundary; return None for an empty mask."""
    return deepest_error(np.zeros_like(truth), truth)
