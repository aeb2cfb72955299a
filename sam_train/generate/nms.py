"""Greedy non-maximum suppression of boxes, as torchvision's, without torchvision."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


def nms(
    boxes: npt.NDArray[np.integer],
    scores: npt.NDArray[np.float32],
    *,
    threshold: float,
) -> npt.NDArray[np.int64]:
    """The boxes that no box of a higher score overlaps by more than `threshold`.

    Args:
        boxes: [n, 4] x0 y0 x1 y1; a box of no area never suppresses and is never suppressed.
        scores: [n]; of equal ones the first comes first.
        threshold: of the IoU of two boxes, computed in float32.

    Returns:
        int64, by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    kept: npt.NDArray[np.int64] = _nms(np.ascontiguousarray(boxes, np.float32), order, threshold)
    return kept


@numba.njit("int64[::1](float32[:, ::1], int64[::1], float64)", nogil=True, cache=True)
def _nms(boxes, order, threshold):  # type: ignore[no-untyped-def]
    n = len(order)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    suppressed = np.zeros(n, dtype=np.bool_)
    kept = np.empty(n, dtype=np.int64)
    count = 0
    zero = np.float32(0)
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
            both = max(zero, width) * max(zero, height)
            either = areas[i] + areas[j] - both
            # Two boxes without area: torchvision's 0 / 0 is no overlap either.
            if either > zero and np.float64(both / either) > threshold:
                suppressed[j] = True
    return kept[:count].copy()


__all__ = ["nms"]
