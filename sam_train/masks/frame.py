"""The map from the photo to the model's input frame: resizing, and the same for points and boxes.

The longest side becomes S and the rest is padding at the right and bottom, as in
segment-anything's `ResizeLongestSide`. The released models saw no augmentation (paper A); the
data-engine variant scales and crops, see `jitter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of whole pixels of the original frame; the last row and column are outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns); either may be 0."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEdges:
    """Exact places of the edges of a photo's n pixels among grid cells, along one axis."""

    cell: npt.NDArray[np.int32]
    """[n + 1] the cell that holds the edge before pixel y; the number of cells if it lies beyond
    them all. Read-only."""
    part: npt.NDArray[np.int64]
    """[n + 1] how much of that cell lies before the edge, in units of 1 / `whole`. Read-only."""
    whole: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFrame:
    """The place of an original frame of (H, W) in the square input of side S.

    The photo is scaled, cut at `offset`, and what then reaches beyond S is left away.
    """

    original: tuple[int, int]
    """(H, W)."""
    side: int
    """S."""
    scale: float = 1.0
    """Length of the scaled photo's longer side, in S."""
    offset: tuple[int, int] = (0, 0)
    """(rows, columns) of the scaled photo that are cut off at its top and left."""

    @property
    def scaled(self) -> tuple[int, int]:
        """Height and width of the whole scaled photo. Rounded as segment-anything does."""
        scale = self.side * self.scale / max(self.original)
        # Not `round`, which takes halves to the even number.
        height, width = (max(1, int(length * scale + 0.5)) for length in self.original)
        return height, width

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the photo inside the input; at `scale` 1 the longer is S."""
        height, width = self.scaled
        return min(self.side, height), min(self.side, width)

    @property
    def window(self) -> Window:
        """The original pixels whose centres lie inside the input."""
        (top, bottom), (left, right) = (
            [_first_from(edge, length, scaled) for edge in (cut, cut + size)]
            for cut, size, length, scaled in zip(
                self.offset, self.size, self.original, self.scaled, strict=True
            )
        )
        return Window(top=top, left=left, bottom=bottom, right=right)

    def resize(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize an RGB photo to uint8 [h, w, 3] by Pillow's antialiased bilinear filter.

        Only what lies inside the input is made, so a large `scale` costs no more memory. The
        photo may have been decoded at 1/2, 1/4 or 1/8 of its size (`decode.to_rgb`).
        """
        (top, left), (height, width) = self.offset, self.size
        # The last pixel of a reduced photo may lie half outside it: sizes are rounded up.
        reduced = round(max(self.original) / max(image.size))
        rows, columns = (length / reduced for length in self.original)
        if (rows, columns) != self.scaled or self.size != self.scaled:
            y, x = rows / self.scaled[0], columns / self.scaled[1]
            box = (
                left * x,
                top * y,
                min((left + width) * x, columns),
                min((top + height) * y, rows),
            )
            # Pillow's filter widens as it shrinks, unlike torch's bilinear without antialiasing.
            image = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image)

    def resize_array(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize uint8 [H, W, channels] as `resize` does; more than three channels one by one."""
        if photo.shape[2] == 3:
            return self.resize(Image.fromarray(photo))
        bands = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(photo, 2, 0)]
        return np.stack([self.resize(band) for band in bands], axis=-1)

    def square(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize uint8 [H, W, channels] onto the input square: [channels, S, S], padded by 0."""
        height, width = self.size
        pixels = np.zeros((photo.shape[2], self.side, self.side), np.uint8)
        pixels[:, :height, :width] = self.resize_array(photo).transpose(2, 0, 1)
        return pixels

    def map_points(self, points: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Map pixel indices (x, y) [..., 2] of the original frame to those of the input frame.

        Pixel centres map to where they lie in the resized photo: (i + 1/2) * scale - 1/2, with
        each axis' own scale because the shorter side was rounded.
        """
        height, width = self.scaled
        scale = np.array([width / self.original[1], height / self.original[0]])
        # Offsets are (rows, columns), points (x, y).
        offset = np.array(self.offset[::-1])
        mapped: npt.NDArray[np.float32] = ((points + 0.5) * scale - 0.5 - offset).astype(np.float32)
        return mapped

    def cell_rows(self, cells: int) -> npt.NDArray[np.int32]:
        """Return `cell_starts` of the photo's rows for a grid of `cells` over the input square."""
        return self._cell_starts(0, cells)

    def cell_columns(self, cells: int) -> npt.NDArray[np.int32]:
        """Return `cell_starts` of the photo's columns."""
        return self._cell_starts(1, cells)

    def row_edges(self, cells: int) -> CellEdges:
        """Return `cell_edges` of the photo's rows for a grid of `cells` over the input square."""
        return self._cell_edges(0, cells)

    def column_edges(self, cells: int) -> CellEdges:
        """Return `cell_edges` of the photo's columns."""
        return self._cell_edges(1, cells)

    def _cell_edges(self, axis: int, cells: int) -> CellEdges:
        return cell_edges(
            self.original[axis],
            self.scaled[axis],
            side=self.side,
            cells=cells,
            offset=self.offset[axis],
        )

    def _cell_starts(self, axis: int, cells: int) -> npt.NDArray[np.int32]:
        return cell_starts(
            self.original[axis],
            self.scaled[axis],
            side=self.side,
            cells=cells,
            offset=self.offset[axis],
        )


def _first_from(edge: int, length: int, scaled: int) -> int:
    """Return the first of `length` pixels whose centre does not lie before `edge` of the scaled
    photo."""
    # (2 y + 1) * scaled / (2 * length) >= edge, solved for y in integers, rounded up.
    return max(0, -((scaled - 2 * length * edge) // (2 * scaled)))


@lru_cache(maxsize=1024)
def cell_starts(
    original: int, scaled: int, *, side: int, cells: int, offset: int = 0
) -> npt.NDArray[np.int32]:
    """Find the grid cells whose centre lies on each photo pixel, along one axis.

    Args:
        original: length in the photo.
        scaled: length of the whole scaled photo.
        side: S.
        cells: grid cells along the side.
        offset: of the scaled photo, cut off at its start.

    Returns:
        int32 [original + 1], read-only: pixel y owns the cells starts[y] .. starts[y + 1] - 1.
        Cells from starts[original] on lie in the padding.
    """
    # Centre of cell i in the scaled photo: offset + (2 i + 1) * side / (2 * cells). In integers,
    # because a centre that falls exactly between two pixels must not depend on rounding.
    centre = (2 * np.arange(cells, dtype=np.int64) + 1) * side + 2 * cells * offset
    inside = centre[centre < 2 * cells * scaled]
    pixel = inside * original // (2 * cells * scaled)
    # Rising, because the centres are: each pixel's cells are a stretch.
    starts = np.searchsorted(pixel, np.arange(original + 1)).astype(np.int32)
    starts.flags.writeable = False
    return starts


@lru_cache(maxsize=1024)
def cell_edges(original: int, scaled: int, *, side: int, cells: int, offset: int = 0) -> CellEdges:
    """Divide photo pixels among grid cells, along one axis; arguments as of `cell_starts`.

    The unit is 1 / (original * cells) of an input pixel. In it every edge of a photo pixel and of a
    cell is an integer, so sums of coverage are exact.
    """
    edge = np.arange(original + 1, dtype=np.int64) * scaled * cells - offset * original * cells
    whole = side * original
    # What lies beyond the input belongs to no cell.
    edge = edge.clip(0, cells * whole)
    cell, part = np.divmod(edge, whole)
    cell = cell.astype(np.int32)
    cell.flags.writeable = part.flags.writeable = False
    return CellEdges(cell=cell, part=part, whole=whole)
