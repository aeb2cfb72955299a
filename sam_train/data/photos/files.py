"""Open a photo file of any format, at one of its pages."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.dicom import SUFFIXES as DICOM_SUFFIXES
from sam_train.data.photos.dicom import is_dicom, read_frame, read_header
from sam_train.data.photos.formats import PAGED_SUFFIXES, TIFF_SUFFIXES, why_unread
from sam_train.data.photos.raster import Raster, raster_of
from sam_train.data.photos.tiff import count_planes, open_tiff, read_plane
from sam_train.data.photos.volumes import SlicePlace, locate_slice, read_slice
from sam_train.data.sample.decode import MAX_PIXELS
from sam_train.errors import UserError

MAX_SIDE = 65_535
"""A JPEG has no longer side, and the shards hold JPEGs."""
MAX_SCENE = 2**31 - 1
"""Pixels of a picture that is cut into tiles."""
TOO_LARGE = (
    f"over {MAX_PIXELS // 1_000_000} megapixels or {MAX_SIDE:,} pixels a side "
    "(python -m data_tools.tile cuts tiles)"
)
ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held; 1 is upright."""

_PAGE = re.compile(r"(?P<stem>.+)_p(?P<number>[0-9]{3,})")
_PPM = re.compile(rb"P6\s+(?:#[^\n]*\s+)*[0-9]+\s+[0-9]+\s+([0-9]+)\s")
_limit = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePlace:
    """A file, and which of its pictures."""

    file: Path
    page: int = 0
    is_named: bool = False
    """The page is part of the name, as in `stack_p003.tif`."""
    slice: SlicePlace | None = None
    """The slice of a volume, as in `case_z003.nii.gz`."""


def locate(path: Path) -> PagePlace:
    """Return the file that a name means: `stack_p003.tif` is the third picture of `stack.tif`."""
    if not path.exists() and path.suffix.lower() in PAGED_SUFFIXES | DICOM_SUFFIXES:
        # Only where no such file exists: a file's own name comes first.
        match = _PAGE.fullmatch(path.stem)
        if match is not None and int(match["number"]) > 0:
            file = path.with_name(match["stem"] + path.suffix)
            return PagePlace(file=file, page=int(match["number"]) - 1, is_named=True)
    if (found := locate_slice(path)) is not None:
        return PagePlace(file=found.file, is_named=True, slice=found)
    return PagePlace(file=path)


def pages(path: Path) -> list[Path]:
    """Return the names of a file's pictures: itself, or `stack_p001.tif` and on.

    A file that cannot be read has one, which fails when it is read.
    """
    if path.suffix.lower() not in PAGED_SUFFIXES:
        return [path]
    try:
        count = _count(path)
    except Exception:  # as in `opened`: it is said when the picture is read
        return [path]
    if count < 2:
        return [path]
    return [path.with_name(f"{path.stem}_p{n:03d}{path.suffix}") for n in range(1, count + 1)]


def _count(path: Path) -> int:
    if path.suffix.lower() in TIFF_SUFFIXES:
        return count_planes(path)
    with open_pillow(path) as image:
        return int(getattr(image, "n_frames", 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An open picture."""

    raster: Raster
    is_rgb_jpeg: bool = False
    """True if the file is a JPEG of 8-bit RGB, whole and undamaged."""


@contextmanager
def opened(
    path: Path, *, most_pixels: int = MAX_PIXELS, longest: int = MAX_SIDE
) -> Iterator[Opened]:
    """Open a picture; sizes are checked before memory is taken.

    Args:
        path: a file, or a page of one, see `locate`.
        most_pixels: the largest area, and
        longest: the longest side that is allowed.

    Raises:
        SkipImageError: the file is missing, damaged, too large, or of a kind that is not read.
    """
    place = locate(path)
    if not place.file.is_file():
        raise SkipImageError("missing image", str(path))
    # By its ending and before it is opened: the way out differs from format to format.
    medical = place.slice is not None or is_dicom(place.file)
    if not medical and (reason := why_unread(place.file)):
        raise SkipImageError(reason)

    check = partial(_check_size, most_pixels=most_pixels, longest=longest)
    try:
        # Only opening is inside: an error of the caller's own must not be called a damaged photo.
        with _open(place, check) as found:
            yield found
    except (SkipImageError, UserError):
        raise
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise SkipImageError("unreadable image", f"{path}: {error}") from error


def refuse_large(path: Path) -> None:
    """Refuse a photo that no shard holds, by its header; what cannot be read passes.

    Raises:
        SkipImageError: it is too large.
    """
    place = locate(path)
    try:
        height, width = _header_size(place)
    except Exception:  # as in `opened`, which says what is wrong
        return
    _check_size(height, width, most_pixels=MAX_PIXELS, longest=MAX_SIDE)


def _header_size(place: PagePlace) -> tuple[int, int]:
    if place.slice is not None:
        raster = read_slice(place.slice)
        return raster.height, raster.width
    if is_dicom(place.file):
        header = read_header(place.file)
        return int(header.Rows), int(header.Columns)
    if _is_tiff(place.file):
        with open_tiff(place.file) as file:
            page: Any = file.pages[0]
            return int(page.imagelength), int(page.imagewidth)
    with open_pillow(place.file) as image:
        return image.height, image.width


def _check_size(height: int, width: int, *, most_pixels: int, longest: int) -> None:
    if height * width > most_pixels or max(height, width) > longest:
        raise SkipImageError(TOO_LARGE, f"{width} x {height} pixels")


@contextmanager
def _open(place: PagePlace, check: Any) -> Iterator[Opened]:
    if place.slice is not None:
        of_volume = read_slice(place.slice)
        check(of_volume.height, of_volume.width)
        yield Opened(raster=of_volume)
        return
    if is_dicom(place.file):
        frame = read_frame(place.file, place.page)
        check(frame.height, frame.width)
        yield Opened(raster=frame)
        return
    # Both: camera raw files begin like a TIFF, and other files are called `.tif`.
    if place.file.suffix.lower() in TIFF_SUFFIXES and _is_tiff(place.file):
        with open_tiff(place.file) as file:
            raster = read_plane(file, place.page)
            if raster is not None:
                check(raster.height, raster.width)
                yield Opened(raster=raster)
                return
    # Before Pillow, which would give their upper 8 bits without a word.
    deep = _sixteen_bits(place.file, check)
    if deep is not None:
        yield Opened(raster=deep)
        return
    with open_pillow(place.file) as image:
        check(image.height, image.width)
        if place.page:
            image.seek(place.page)
        rgb_jpeg = image.format == "JPEG" and image.mode == "RGB"
        yield Opened(raster=_of_pillow(image, is_named=place.is_named), is_rgb_jpeg=rgb_jpeg)


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) in (b"II", b"MM")


@contextmanager
def open_pillow(path: Path) -> Iterator[Image.Image]:
    """Open a picture with Pillow, whatever its size, which the caller checks."""
    with _limit:
        # Pillow's limit is global and warns below ours. The lock keeps threads from undoing each
        # other.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _sixteen_bits(path: Path, check: Any) -> Raster | None:
    """Read a PNG or JPEG 2000 of several bands of more than 8 bits, which Pillow cuts to 8."""
    with path.open("rb") as stream:
        head = stream.read(64)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        # Of the IHDR chunk, always the first: width and height at 16, then bit depth and colour
        # type.
        depth, kind = head[24], head[25]
        if depth != 16 or kind not in (2, 4, 6):
            return None
        # Before decoding, since a small file may claim any size.
        check(int.from_bytes(head[20:24]), int.from_bytes(head[16:20]))
        pixels = imagecodecs.png_decode(path.read_bytes())
        return raster_of(pixels, is_colour=kind != 4, alpha={4: 1, 6: 3}.get(kind))
    if (header := _PPM.match(head)) and int(header[1]) > 255:
        raise SkipImageError("PPM of more than 8 bits is not read (save it as PNG or TIFF)")
    if head[4:8] == b"jP  " or head.startswith(b"\xff\x4f\xff\x51"):
        with open_pillow(path) as image:
            check(image.height, image.width)
        pixels = imagecodecs.jpeg2k_decode(path.read_bytes())
        bands = 1 if pixels.ndim == 2 else pixels.shape[2]
        if pixels.dtype == np.uint8 and bands in (1, 3):
            return None
        return raster_of(pixels, is_colour=bands == 3)
    return None


def _of_pillow(image: Image.Image, *, is_named: bool) -> Raster:
    """Make a raster of Pillow's picture: deep grey as it is, all else as 8-bit grey or colour."""
    orientation = image.getexif().get(ORIENTATION, 1)
    frames = int(getattr(image, "n_frames", 1))
    # Decoded even if the bytes are copied: a cut-off JPEG opens without complaint.
    image.load()
    remarks = () if is_named or frames < 2 else ("the first picture of a file of several",)
    alpha = None
    if image.mode.startswith(("I", "F")):
        pixels = np.asarray(image)
        # In the machine's byte order: a big-endian `I;16B` would be converted at every step.
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    elif image.has_transparency_data:
        pixels, alpha = np.asarray(image.convert("RGBA")), 3
    else:
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return raster_of(
        pixels,
        is_colour=pixels.ndim == 3,
        alpha=alpha,
        orientation=int(orientation) if isinstance(orientation, int) else 1,
        remarks=remarks,
    )
