"""From the photo to the model's input frame: resize, and the same map for points and boxes.

There is no augmentation (paper A). The longest side becomes S and the rest is padding at the
right and bottom, as in segment-anything's `ResizeLongestSide`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFrame:
    """How an original frame of (H, W) lies in the square input of side S."""

    original: tuple[int, int]
    """(H, W)."""
    side: int
    """S."""

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the resized photo; the longer is S. Rounded as segment-anything does."""
        scale = self.side / max(self.original)
        height, width = (max(1, int(length * scale + 0.5)) for length in self.original)
        return height, width

    def resize(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """uint8 [h, w, 3] of an RGB photo: Pillow's antialiased bilinear filter."""
        height, width = self.size
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return np.array(image)

    def map_points(self, points: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Pixel indices (x, y) of the original frame, [..., 2], as those of the input frame.

        Pixel centres map to where they lie in the resized photo: (i + 1/2) * scale - 1/2, with
        each axis' own scale because the shorter side was rounded.
        """
        height, width = self.size
        scale = np.array([width / self.original[1], height / self.original[0]])
        mapped: npt.NDArray[np.float32] = ((points + 0.5) * scale - 0.5).astype(np.float32)
        return mapped

    def cell_rows(self, cells: int) -> npt.NDArray[np.int32]:
        """`cell_starts` of the photo's rows for a grid of `cells` over the input square."""
        return cell_starts(self.original[0], self.size[0], side=self.side, cells=cells)

    def cell_columns(self, cells: int) -> npt.NDArray[np.int32]:
        """`cell_starts` of the photo's columns."""
        return cell_starts(self.original[1], self.size[1], side=self.side, cells=cells)


@lru_cache(maxsize=1024)
def cell_starts(original: int, scaled: int, *, side: int, cells: int) -> npt.NDArray[np.int32]:
    """Which grid cells have their centre on which photo pixel, along one axis.

    Args:
        original: length in the photo.
        scaled: length in the input frame.
        side: S.
        cells: grid cells along the side.

    Returns:
        int32 [original + 1], read-only: pixel y owns the cells starts[y] .. starts[y + 1] - 1.
        Cells from starts[original] on lie in the padding.
    """
    # Centre of cell i in the input frame: (2 i + 1) * side / (2 * cells). In integers, because a
    # centre that falls exactly between two pixels must not depend on rounding.
    centre = (2 * np.arange(cells, dtype=np.int64) + 1) * side
    inside = centre[centre < 2 * cells * scaled]
    pixel = inside * original // (2 * cells * scaled)
    starts = np.searchsorted(pixel, np.arange(original + 1)).astype(np.int32)
    starts.flags.writeable = False
    return starts
