"""The objects of a scene, and those parts of them that a tile shows enough of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam_train.data.formats.records import SourceMask
from sam_train.data.tiles.grid import Window
from sam_train.data.tiles.objects import SceneObject, meeting

MIN_VISIBLE = 0.1
"""The part of an object in a tile is left out if it is smaller than this share of the object and of
the tile: a sliver at the border is no example of the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The part of an object that a tile shows."""

    number: int
    """The object's place in the scene."""
    pixels: SceneObject
    """The part, in the tile's coordinates."""
    visible: float
    """Share of the object's pixels; 1 is all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileParts:
    """The parts that a tile takes."""

    parts: list[Part]
    small: int
    """Parts that were left out because too little of them is in the tile."""


class SceneObjects:
    """The objects of a scene."""

    def __init__(self, masks: Sequence[SourceMask]) -> None:
        """Args:
        masks: of the scene's size, none of them empty.
        """
        self.objects = [SceneObject.of(mask) for mask in masks]
        boxes = [whole.box() for whole in self.objects]
        self._boxes = np.array(boxes, dtype=np.int64).reshape(-1, 4)
        self._areas = [whole.area for whole in self.objects]

    def within(
        self, window: Window, *, min_visible: float = MIN_VISIBLE, min_area: int = 1
    ) -> TileParts:
        """Return the parts in a window that are neither slivers nor below `min_area` pixels."""
        parts, small = [], 0
        for k in np.flatnonzero(meeting(self._boxes, window)).tolist():
            part = self.objects[k].within(window)
            if (area := part.area) == 0:
                continue
            # Of the tile, too: a tenth of a lake may fill it.
            least = min_visible * min(self._areas[k], window.width * window.height)
            if area < max(least, min_area):
                small += 1
                continue
            parts.append(Part(number=k, pixels=part, visible=area / self._areas[k]))
        return TileParts(parts=parts, small=small)
