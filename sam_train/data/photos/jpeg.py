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

from sam_train.data.photos.files import ORIENTATION, locate, open_pillow, opened
from sam_train.data.photos.formats import JPEG_SUFFIXES
from sam_train.data.photos.raster import UPRIGHT, Raster, turned
from sam_train.data.photos.rule import PhotoRule, Taken
from sam_train.data.photos.show import plan, show_all

JPEG_QUALITY = 95

_DEFAULT = PhotoRule()
# By process: workers say it once each.
_said: set[str] = set()

log = logging.getLogger("sam_train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """An encoded photo."""

    jpeg: bytes
    width: int
    height: int
    taken: Taken
    """The treatment of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A photo's pixels, and what was done to it."""

    pixels: npt.NDArray[np.uint8]
    """[H, W, 3] RGB."""
    taken: Taken

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])


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
        # Encoding anew would lose quality for nothing.
        if found.is_rgb_jpeg and found.raster.orientation in UPRIGHT and _leaves(rule):
            raster = found.raster
            return _copied(path, width=raster.width, height=raster.height)
        shown = _shown(found.raster, mask_sizes, rule)
    return encode(shown.pixels, taken=shown.taken, quality=quality)


def read_stored(
    path: Path, *, mask_sizes: Collection[tuple[int, int]] = (), rule: PhotoRule = _DEFAULT
) -> Photo | Shown:
    """Read a photo as `read_photo`, but return the pixels where no JPEG is needed.

    The bytes of an upright RGB JPEG come back by its header alone: the sample's decoder finds
    damage, and photos are not decoded twice.

    Raises:
        SkipImageError: as `read_photo`.
    """
    # Bands that are chosen by name are looked for in the pixels.
    if not rule.bands and (size := _rgb_jpeg_size(path)) is not None:
        return _copied(path, width=size[0], height=size[1])
    return read_shown(path, mask_sizes=mask_sizes, rule=rule)


def _copied(path: Path, *, width: int, height: int) -> Photo:
    taken = Taken(stored="uint8 x 3", bands=(1, 2, 3), copied=True)
    return Photo(jpeg=locate(path).file.read_bytes(), width=width, height=height, taken=taken)


def _rgb_jpeg_size(path: Path) -> tuple[int, int] | None:
    """Return (width, height) of an upright RGB JPEG from its header, None for any other file."""
    if path.suffix.lower() not in JPEG_SUFFIXES:
        return None
    try:
        with open_pillow(path) as image:
            # By content: a PNG may be called `.jpg`.
            plain = image.format == "JPEG" and image.mode == "RGB"
            upright = image.getexif().get(ORIENTATION, 1) in UPRIGHT
            return image.size if plain and upright else None
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception:
        return None


def _shown(raster: Raster, mask_sizes: Collection[tuple[int, int]], rule: PhotoRule) -> Shown:
    upright = turned(raster, mask_sizes)
    look = plan(upright, rule)
    return Shown(pixels=show_all(upright, look), taken=look.taken)


def read_shown(
    path: Path, *, mask_sizes: Collection[tuple[int, int]] = (), rule: PhotoRule = _DEFAULT
) -> Shown:
    """Read the pixels that `read_photo` encodes, without a JPEG in between.

    Raises:
        SkipImageError: as `read_photo`.
    """
    with opened(path) as found:
        return _shown(found.raster, mask_sizes, rule)


def read_pixels(
    path: Path, *, mask_sizes: Collection[tuple[int, int]] = (), rule: PhotoRule = _DEFAULT
) -> npt.NDArray[np.uint8]:
    """Read a photo as `read_shown`, uint8 [H, W, channels]. What was done to it is logged once.

    Raises:
        SkipImageError: as `read_photo`.
    """
    shown = read_shown(path, mask_sizes=mask_sizes, rule=rule)
    for remark in shown.taken.remarks:
        if remark not in _said:
            _said.add(remark)
            log.info("%s, and every photo of its kind: %s", path, remark)
    return shown.pixels


def _leaves(rule: PhotoRule) -> bool:
    """Tell whether the rule leaves an 8-bit RGB photo as it is."""
    return rule.bands in ((), (1, 2, 3)) and not rule.nodata


def encode(pixels: npt.NDArray[np.uint8], *, taken: Taken, quality: int = JPEG_QUALITY) -> Photo:
    """Encode uint8 [H, W, 3] RGB as a JPEG without chroma subsampling and without EXIF."""
    buffer = io.BytesIO()
    # Thin coloured structures would bleed with 4:2:0, and masks end at their edges.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    height, width = pixels.shape[:2]
    return Photo(jpeg=buffer.getvalue(), width=width, height=height, taken=taken)
