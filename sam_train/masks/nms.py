"""Greedy non-maximum suppression of boxes, as torchvision's, without torchvision."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
"""An array of the element type that the compiled signature says."""


def nms(
    boxes: npt.NDArray[np.integer],
    scores: npt.NDArray[np.float32],
    *,
    threshold: float,
    lines: bool = False,
) -> npt.NDArray[np.int64]:
    """Return the boxes that no box of a higher score overlaps by more than `threshold`.

    Args:
        boxes: [n, 4] x0 y0 x1 y1; a box of no area never suppresses and is never suppressed.
        scores: [n]; of equal ones the first comes first.
        threshold: of the IoU of two boxes, computed in float32.
        lines: boxes name first and last pixels, so one of no area is a line of pixels, or a single
            one, not nothing. Two of these overlap by the pixels that they share. Boxes with an area
            are compared as ever, and never with a line.

    Returns:
        int64, by falling score.
    """
    # Stable, as torchvision's: of equal scores the first in the list suppresses the other.
    order = np.argsort(-scores, kind="stable")
    kept: npt.NDArray[np.int64] = _nms(
        np.ascontiguousarray(boxes, np.float32), order, threshold, lines
    )
    return kept


@numba.njit("float32(float32[::1])", nogil=True, cache=True)
def _pixels(box: Array) -> float:
    one = np.float32(1)
    count: float = (box[2] - box[0] + one) * (box[3] - box[1] + one)
    return count


@numba.njit("int64[::1](float32[:, ::1], int64[::1], float64, boolean)", nogil=True, cache=True)
def _nms(boxes: Array, order: Array, threshold: float, lines: bool) -> Array:
    n = len(order)
    # In float32 throughout, like torchvision: float64 may decide otherwise at the threshold.
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    suppressed = np.zeros(n, dtype=np.bool_)
    kept = np.empty(n, dtype=np.int64)
    count = 0
    zero, one = np.float32(0), np.float32(1)
    for a in range(n):
        i = order[a]
        if suppressed[i]:
            continue
        kept[count] = i
        count += 1
        for b in range(a + 1, n):
            j = order[b]
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            if lines and areas[i] == zero and areas[j] == zero:
                both = max(zero, width + one) * max(zero, height + one)
                either = _pixels(boxes[i]) + _pixels(boxes[j]) - both
            else:
                both = max(zero, width) * max(zero, height)
                either = areas[i] + areas[j] - both
            # Two boxes without area: torchvision's 0 / 0 is no overlap either.
            if either > zero and np.float64(both / either) > threshold:
                suppressed[j] = True
    return kept[:count].copy()
