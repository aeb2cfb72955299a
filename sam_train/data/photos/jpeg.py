"""A photo of any kind as the upright RGB JPEG that a shard holds."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam_train.data.photos.files import locate, opened
from sam_train.data.photos.raster import UPRIGHT, turned
from sam_train.data.photos.rule import PhotoRule, Taken
from sam_train.data.photos.show import plan, show_all

JPEG_QUALITY = 95

_DEFAULT = PhotoRule()
_said: set[str] = set()

log = logging.getLogger("sam_train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """An encoded photo."""

    jpeg: bytes
    width: int
    height: int
    taken: Taken
    """What was done to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A photo's pixels, and what was done to it."""

    pixels: npt.NDArray[np.uint8]
    """[H, W, 3] RGB."""
    taken: Taken


def read_photo(
    path: Path,
    *,
    mask_sizes: Collection[tuple[int, int]] = (),
    quality: int = JPEG_QUALITY,
    rule: PhotoRule = _DEFAULT,
) -> Photo:
    """Read a photo; an upright RGB JPEG comes back byte for byte, all else is encoded anew.

    - Rotated by EXIF: turned upright, unless only the pixels as stored fit the masks' sizes; then
      they stay as stored and the tag goes, so that no reader turns them away from their masks.
    - 8-bit grey, palettes, CMYK, YCbCr and CIELab become RGB with their values as they are.
    - More than 8 bits, whole numbers or floats: stretched between two percentiles, see
      `PhotoRule`; the colours of a photo together, the bands of anything else each on its own.
    - Transparency becomes white, as a browser shows it, if the band that the file marks as such
      really is one; missing values become black.

    Args:
        path: any format of `photos.formats`; `stack_p003.tif` is a page of `stack.tif`.
        mask_sizes: the (height, width) that the masks have.
        quality: of the JPEG, where one has to be made (chroma is not subsampled).
        rule: the same for all photos of a data set.

    Raises:
        SkipImageError: the file is missing, damaged, too large, or of a kind that is not read.
    """
    with opened(path) as found:
        raster = found.raster
        if found.is_rgb_jpeg and raster.orientation in UPRIGHT and _leaves(rule):
            return Photo(
                jpeg=locate(path).file.read_bytes(),
                width=raster.width,
                height=raster.height,
                taken=Taken(stored=raster.stored, bands=(1, 2, 3), copied=True),
            )
        raster = turned(raster, mask_sizes)
        look = plan(raster, rule)
        return encode(show_all(raster, look), taken=look.taken, quality=quality)


def read_shown(
    path: Path, *, mask_sizes: Collection[tuple[int, int]] = (), rule: PhotoRule = _DEFAULT
) -> Shown:
    """Read the pixels that `read_photo` encodes, without a JPEG in between.

    Raises:
        SkipImageError: as `read_photo`.
    """
    with opened(path) as found:
        raster = turned(found.raster, mask_sizes)
        look = plan(raster, rule)
        return Shown(pixels=show_all(raster, look), taken=look.taken)


def read_pixels(
    path: Path, *, mask_sizes: Collection[tuple[int, int]] = ()
) -> npt.NDArray[np.uint8]:
    """Read a photo as `read_shown`: uint8 [H, W, 3] RGB. What was done to it is logged once.

    Raises:
        SkipImageError: as `read_photo`.
    """
    shown = read_shown(path, mask_sizes=mask_sizes)
    for remark in shown.taken.remarks:
        if remark not in _said:
            _said.add(remark)
            log.info("%s, and every photo of its kind: %s", path, remark)
    return shown.pixels


def _leaves(rule: PhotoRule) -> bool:
    """Whether the rule leaves an 8-bit RGB photo as it is."""
    return rule.bands in ((), (1, 2, 3)) and not rule.nodata


def encode(pixels: npt.NDArray[np.uint8], *, taken: Taken, quality: int = JPEG_QUALITY) -> Photo:
    """Encode uint8 [H, W, 3] RGB as a JPEG without chroma subsampling and without EXIF."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    height, width = pixels.shape[:2]
    return Photo(jpeg=buffer.getvalue(), width=width, height=height, taken=taken)
