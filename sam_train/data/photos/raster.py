"""A picture as it is stored: its bands, and a way to read some of its rows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]

UPRIGHT = (0, 1)
"""EXIF orientations that leave a picture as it is; 0 is no orientation, but is written."""
_BAND_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """A picture of an open file."""

    height: int
    width: int
    bands: int
    dtype: np.dtype[Any]
    rows: Callable[[int, int], Pixels]
    """(top, bottom) -> [bottom - top, width, bands], values as stored."""
    is_colour: bool = False
    """The first three bands are red, green and blue."""
    alpha: int | None = None
    """Index of the band that the file marks as transparency."""
    premultiplied: bool = False
    """Colours are multiplied by the transparency already."""
    nodata: float | None = None
    """The value that the file names as standing for nothing."""
    orientation: int = 1
    """EXIF's number."""
    remarks: tuple[str, ...] = ()

    @property
    def is_deep(self) -> bool:
        """True if its values are not simply those of a screen, 0 to 255."""
        return self.dtype != np.uint8

    @property
    def stored(self) -> str:
        """Type and number of bands, as `uint16 x 4`."""
        return f"{self.dtype.name} x {self.bands}"


def raster_of(pixels: Pixels, **more: Any) -> Raster:
    """Return a picture that is in memory, [H, W] or [H, W, bands]; `more` as `Raster` takes it."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return Raster(
        height=pixels.shape[0],
        width=pixels.shape[1],
        bands=pixels.shape[2],
        dtype=pixels.dtype.newbyteorder("="),
        rows=lambda top, bottom: pixels[top:bottom],
        **more,
    )


def turned(raster: Raster, mask_sizes: Collection[tuple[int, int]] = ()) -> Raster:
    """Return the picture upright, unless only the pixels as stored fit the masks' (height, width).

    A picture that has to be turned is read whole.
    """
    if raster.orientation in UPRIGHT or not 2 <= raster.orientation <= 8:
        return raster
    stored = (raster.height, raster.width)
    # Orientations from 5 on exchange rows and columns.
    upright = stored[::-1] if raster.orientation >= 5 else stored
    # Some tools label the pixels as stored, others as shown; the masks' size tells which.
    if upright not in mask_sizes and stored in mask_sizes:
        return raster
    pixels = _turn(raster.rows(0, raster.height), raster.orientation)
    return replace(
        raster,
        height=upright[0],
        width=upright[1],
        rows=lambda top, bottom: pixels[top:bottom],
        orientation=1,
    )


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation of 2 to 8 on [H, W, bands]."""
    # Transposed first; the flips below are those of the transposed picture.
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # Which axes run backwards: rows, columns.
    flips = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    return np.flip(pixels, flips)


def thinned(raster: Raster, *, most: int) -> Pixels:
    """Return every k-th pixel of every k-th row, k as small as `most` pixels allow: [h, w, bands].

    The picture passes through memory in bands of rows.
    """
    step = max(1, int(np.ceil(np.sqrt(raster.height * raster.width / most))))
    if step == 1:
        return raster.rows(0, raster.height)
    # A multiple of the step, so that every band begins on a row that is taken.
    height = max(step, _BAND_ROWS // step * step)
    parts = [
        # A copy: a view would keep the whole band in memory.
        np.array(raster.rows(top, min(top + height, raster.height))[::step, ::step])
        for top in range(0, raster.height, height)
    ]
    return np.concatenate(parts)
