"""The masks that a photo has already, so that only missing ones are proposed (paper §4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from sam_train.masks.changes import area_of, bitmap, box_of
from sam_train.masks.crops import Points
from sam_train.masks.trace import Changes

Array = npt.NDArray[Any]
"""An array of the element type that the compiled signature says."""
_INT32 = numba.int32[::1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Existing:
    """The m masks that a photo has already."""

    changes: list[Changes]
    areas: npt.NDArray[np.int64]
    """[m]."""
    boxes: npt.NDArray[np.int64]
    """[m, 4] x0 y0 x1 y1, original frame, inclusive."""
    covered: npt.NDArray[np.bool_]
    """[H, W]: True for pixels of any mask."""

    @classmethod
    def of(cls, changes: Sequence[Changes], photo: tuple[int, int]) -> Existing:
        """Measure masks of a photo of (H, W); empty ones are left out."""
        masks = [mask for mask in changes if len(mask)]
        covered = np.zeros(photo, np.bool_)
        for mask in masks:
            covered |= bitmap(mask, photo)
        return cls(
            changes=masks,
            areas=np.array([area_of(mask, photo) for mask in masks], np.int64),
            boxes=np.array([box_of(mask, photo) for mask in masks], np.int64).reshape(-1, 4),
            covered=covered,
        )

    def free(self, points: Points) -> npt.NDArray[np.bool_]:
        """Find the points (x, y) [n, 2], original frame, that lie on no mask: bool [n]."""
        height, width = self.covered.shape
        columns = np.clip(points[:, 0].astype(np.int64), 0, width - 1)
        rows = np.clip(points[:, 1].astype(np.int64), 0, height - 1)
        return ~self.covered[rows, columns]

    def best_iou(self, mask: Changes, box: npt.NDArray[np.int64], area: int) -> float:
        """Return the highest IoU of `mask`, whose `box` [4] is in the original frame, with any."""
        if not len(self.changes):
            return 0.0
        # Most boxes do not meet, and comparing them costs nothing beside comparing runs.
        low = np.maximum(self.boxes[:, :2], box[:2])
        high = np.minimum(self.boxes[:, 2:], box[2:])
        best = 0.0
        for k in np.flatnonzero((low <= high).all(axis=1)).tolist():
            both = int(_overlap(mask, self.changes[k], self.covered.size))
            best = max(best, both / max(area + int(self.areas[k]) - both, 1))
        return best


@numba.njit(numba.int64(_INT32, _INT32, numba.int64), nogil=True, cache=True)
def _overlap(a: Array, b: Array, pixels: int) -> int:
    """Count the pixels that two masks share."""
    # Runs alternate: even entries begin foreground, odd ones end it, the last one at the end of
    # the photo. The run that ends first cannot overlap any later one of the other mask.
    both = 0
    i = j = 0
    while i < len(a) and j < len(b):
        a_end = a[i + 1] if i + 1 < len(a) else pixels
        b_end = b[j + 1] if j + 1 < len(b) else pixels
        begin, end = max(a[i], b[j]), min(a_end, b_end)
        both += max(0, end - begin)
        if a_end <= b_end:
            i += 2
        else:
            j += 2
    return both
