"""An object of a scene and the part of it that lies in a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.records import SourceMask
from sam_train.data.tiles.grid import Window
from sam_train.masks.runs import Segmentation, compressed, run_lengths, runs_between

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """A mask of a scene as vertical lines of pixels, sorted by column and row."""

    name: str
    id: int
    """The source's own number."""
    columns: Ints
    """[n]"""
    tops: Ints
    """[n] first row of each line."""
    bottoms: Ints
    """[n] row behind the last one."""

    @classmethod
    def of(cls, mask: SourceMask) -> Self:
        """Read the lines from the mask's run lengths."""
        height = mask.segmentation["size"][0]
        ends = np.cumsum(run_lengths(mask.segmentation["counts"]))
        begins, ends = ends[0:-1:2], ends[1::2]
        begins, ends = begins[ends > begins], ends[ends > begins]
        first, last = begins // height, (ends - 1) // height
        # A run over several columns is a line in each of them.
        counts = last - first + 1
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        columns = np.repeat(first, counts) + inside
        tops = np.where(inside == 0, np.repeat(begins % height, counts), 0)
        is_last = columns == np.repeat(last, counts)
        bottoms = np.where(is_last, np.repeat((ends - 1) % height + 1, counts), height)
        return cls(name=mask.name, id=mask.id, columns=columns, tops=tops, bottoms=bottoms)

    @property
    def area(self) -> int:
        """Pixels in the whole scene."""
        return int((self.bottoms - self.tops).sum())

    def box(self) -> tuple[int, int, int, int]:
        """Return x0 y0 x1 y1 around it, x1 and y1 outside; it must have a pixel."""
        return (
            int(self.columns[0]),
            int(self.tops.min()),
            int(self.columns[-1]) + 1,
            int(self.bottoms.max()),
        )

    def within(self, window: Window) -> Self:
        """Return what lies in a window, in its own coordinates; perhaps nothing."""
        low, high = np.searchsorted(self.columns, [window.x, window.x + window.width])
        tops = np.maximum(self.tops[low:high] - window.y, 0)
        bottoms = np.minimum(self.bottoms[low:high] - window.y, window.height)
        there = bottoms > tops
        return type(self)(
            name=self.name,
            id=self.id,
            columns=self.columns[low:high][there] - window.x,
            tops=tops[there],
            bottoms=bottoms[there],
        )

    def encoded(self, *, height: int, width: int) -> Segmentation:
        """Return its run lengths in a picture of this size."""
        begins = self.columns * height + self.tops
        ends = self.columns * height + self.bottoms
        flips = np.stack([begins, ends], axis=1).ravel()
        runs = runs_between(flips, total=height * width)
        return compressed(runs, height=height, width=width)


def meeting(boxes: Ints, window: Window) -> npt.NDArray[np.bool_]:
    """Return which of int64 [n, 4] boxes, see `SceneObject.box`, share a pixel with a window."""
    x0, y0, x1, y1 = boxes.T
    right, bottom = window.x + window.width, window.y + window.height
    return np.asarray((x0 < right) & (x1 > window.x) & (y0 < bottom) & (y1 > window.y))
