"""A photo of any kind as the upright RGB JPEG that a shard holds."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from data_tools.readers.records import SkipImageError

JPEG_QUALITY = 95

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held; 1 is upright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """An encoded photo."""

    jpeg: bytes
    width: int
    height: int


def read_photo(
    path: Path,
    *,
    mask_sizes: Collection[tuple[int, int]] = (),
    quality: int = JPEG_QUALITY,
) -> Photo:
    """Read a photo; an upright RGB JPEG comes back byte for byte, all else is encoded anew.

    - Rotated by EXIF: turned upright, unless only the pixels as stored fit the masks' sizes; then
      they stay as stored and the tag goes, so that no reader turns them away from their masks.
    - Grey and CMYK become RGB. 16-bit and float pictures are stretched from their darkest to
      their brightest value, because a microscope seldom uses the whole range.
    - Transparent parts become white, as a browser shows them.

    Args:
        path: any format that Pillow reads; of several frames the first.
        mask_sizes: the (height, width) that the masks have.
        quality: of the JPEG, where one has to be made (chroma is not subsampled).

    Raises:
        SkipImageError: the file is missing, damaged or absurdly large.
    """
    with _opened(path) as image:
        rotated = image.getexif().get(ORIENTATION, 1) not in (0, 1)
        if image.format == "JPEG" and image.mode == "RGB" and not rotated:
            return Photo(jpeg=path.read_bytes(), width=image.width, height=image.height)
        return _encode(_to_rgb(_turned(image, mask_sizes)), quality=quality)


def read_pixels(
    path: Path, *, mask_sizes: Collection[tuple[int, int]] = ()
) -> npt.NDArray[np.uint8]:
    """The pixels that `read_photo` encodes: uint8 [H, W, 3] RGB, without a JPEG in between.

    Raises:
        SkipImageError: as `read_photo`.
    """
    with _opened(path) as image:
        return np.asarray(_to_rgb(_turned(image, mask_sizes)))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():
        raise SkipImageError("missing image", str(path))
    try:
        with Image.open(path) as image:
            # Decoded even if the bytes are copied: a cut-off JPEG opens without complaint.
            image.load()
            yield image
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise SkipImageError("unreadable image", f"{path}: {error}") from error


def _turned(image: Image.Image, mask_sizes: Collection[tuple[int, int]]) -> Image.Image:
    """Upright, unless only the pixels as stored fit the masks."""
    if image.getexif().get(ORIENTATION, 1) in (0, 1):
        return image
    upright = ImageOps.exif_transpose(image)
    fits_upright = (upright.height, upright.width) in mask_sizes
    as_stored = not fits_upright and (image.height, image.width) in mask_sizes
    return image if as_stored else upright


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # Pillow's own conversion clips at 255 and leaves most 16-bit pictures white.
        values = np.asarray(image).astype(np.float64)
        # Photos without a value in places (NaN: satellites, depth) are black there.
        finite = np.isfinite(values)
        low, high = (float(f(values[finite])) for f in (np.min, np.max)) if finite.any() else (0, 0)
        grey = np.where(finite, values - low, 0.0) * (255.0 / max(high - low, 1e-12))
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")


def _encode(image: Image.Image, *, quality: int) -> Photo:
    buffer = io.BytesIO()
    # exif empty: Pillow would otherwise carry the old orientation tag into the new file.
    image.save(buffer, "JPEG", quality=quality, subsampling=0, exif=b"")
    return Photo(jpeg=buffer.getvalue(), width=image.width, height=image.height)
