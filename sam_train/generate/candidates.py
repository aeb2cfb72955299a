"""Masks on their way through the filters, as equally long arrays that are cut down together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_train.masks.crops import Crop, Points
from sam_train.masks.trace import Changes

NEAR_EDGE = 20
"""Pixels from a border of its crop within which a box counts as cut off (segment-anything's)."""


@dataclass(slots=True, kw_only=True)
class Candidates:
    """n masks."""

    changes: list[Changes]
    """Runs of each mask, original frame."""
    areas: npt.NDArray[np.int64]
    """[n] pixels."""
    boxes: npt.NDArray[np.int64]
    """[n, 4] x0 y0 x1 y1, first and last column and row, original frame."""
    iou: npt.NDArray[np.float32]
    """[n] predicted IoU."""
    stability: npt.NDArray[np.float32]
    """[n]."""
    points: Points
    """[n, 2] (x, y), original frame: the points that prompted the masks."""
    crops: npt.NDArray[np.int64]
    """[n] numbers of the masks' crops."""

    def __len__(self) -> int:
        return len(self.changes)

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Candidates:
        """Take some of the masks by a bool [n], or by numbers in the order wanted."""
        numbers = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
        return Candidates(
            changes=[self.changes[k] for k in numbers.tolist()],
            areas=self.areas[numbers],
            boxes=self.boxes[numbers],
            iou=self.iou[numbers],
            stability=self.stability[numbers],
            points=self.points[numbers],
            crops=self.crops[numbers],
        )


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Join the masks of `parts`, of which there may be none."""
    return Candidates(
        changes=[mask for part in parts for mask in part.changes],
        areas=np.concatenate([np.empty(0, np.int64), *(p.areas for p in parts)]),
        boxes=np.concatenate([np.empty((0, 4), np.int64), *(p.boxes for p in parts)]),
        iou=np.concatenate([np.empty(0, np.float32), *(p.iou for p in parts)]),
        stability=np.concatenate([np.empty(0, np.float32), *(p.stability for p in parts)]),
        points=np.concatenate([np.empty((0, 2)), *(p.points for p in parts)]),
        crops=np.concatenate([np.empty(0, np.int64), *(p.crops for p in parts)]),
    )


def cut_off(
    boxes: npt.NDArray[np.int64], crop: Crop, photo: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Find boxes, [n, 4] in the original frame, that a border of the crop has cut off: bool [n].

    A box near a border of the photo itself, of (H, W), is not cut off there.
    """
    # What the crop cuts off is whole in a neighbouring crop or in the photo.
    borders = np.array([crop.x0, crop.y0, crop.x1, crop.y1])
    outer = np.array([0, 0, photo[1], photo[0]])
    near = np.abs(boxes - borders) <= NEAR_EDGE
    near_outer = np.abs(boxes - outer) <= NEAR_EDGE
    result: npt.NDArray[np.bool_] = (near & ~near_outer).any(axis=1)
    return result
