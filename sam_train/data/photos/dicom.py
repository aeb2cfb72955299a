"""Pictures of DICOM files: slices, and frames of files of several (`scan_p003.dcm`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.raster import Pixels, Raster, raster_of
from sam_train.errors import UserError

SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
MOST_BYTES = 1 << 32
"""A file whose pixels are above this is refused from its header."""


def pydicom() -> Any:
    """Import the reader of DICOM files.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pydicom as found  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise UserError(
            f"DICOM files need {error.name}: pip install 'sam_train[medical]'"
        ) from error
    return found


def is_dicom(path: Path) -> bool:
    """Tell by its content whether a file is DICOM: many have no ending."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> Any:
    """Read a file's data set without its pixels.

    Raises:
        SkipImageError: it is missing or damaged.
    """
    reader = pydicom()
    try:
        return reader.dcmread(path, stop_before_pixels=True)
    except Exception as error:  # pydicom raises its own errors and those of the values it parses
        raise SkipImageError("unreadable image", f"{path}: {error}") from None


def frames_of(header: Any) -> int:
    """Return how many pictures a file holds."""
    return max(1, int(getattr(header, "NumberOfFrames", None) or 1))


def read_pixels(path: Path) -> tuple[Any, Pixels]:
    """Read a file's data set and all of its pixels, [H, W], with an axis of frames or bands.

    Raises:
        SkipImageError: it is missing, damaged, too large, or of a compression that is not read.
    """
    header = read_header(path)
    try:
        size = int(header.Rows) * int(header.Columns) * frames_of(header)
        bits = int(header.BitsAllocated) * int(getattr(header, "SamplesPerPixel", 1))
        if size * bits // 8 > MOST_BYTES:
            raise SkipImageError("volume of over 4 GiB", str(path))
        data = pydicom().dcmread(path)
        return data, np.asarray(data.pixel_array)
    except SkipImageError:
        raise
    # A missing decoder of its compression is an error of pydicom's, too, and names it.
    except Exception as error:
        raise SkipImageError(
            "unreadable image", f"{path}: {' '.join(str(error).split())}"
        ) from None


def read_frame(path: Path, number: int = 0) -> Raster:
    """Return a frame (from 0) with the file's scaling to units such as Hounsfield's applied.

    Raises:
        SkipImageError: as `read_pixels`; or there is no such frame.
    """
    data, pixels = read_pixels(path)
    frames = frames_of(data)
    if number >= frames:
        raise SkipImageError("no such slice", f"{path} has {frames}")
    if frames > 1:
        pixels = pixels[number]
    kind = str(getattr(data, "PhotometricInterpretation", ""))
    slope = float(getattr(data, "RescaleSlope", None) or 1)
    intercept = float(getattr(data, "RescaleIntercept", None) or 0)
    padding = getattr(data, "PixelPaddingValue", None)
    if pixels.ndim == 3:
        pixels = _rgb(pixels, kind)
        return raster_of(pixels, is_colour=True)
    if kind == "PALETTE COLOR":
        raise SkipImageError("a palette in a DICOM file is not read", str(path))
    values = pixels
    if kind == "MONOCHROME1":
        # The lowest value is white.
        top = 2 ** int(data.BitsStored) - 1
        values = (top - values.astype(np.int32)).astype(np.int32)
        padding = None if padding is None else top - int(padding)
    if (slope, intercept) != (1.0, 0.0):
        values = values.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        padding = None if padding is None else float(padding) * slope + intercept
    nodata = None if padding is None else float(padding)
    return raster_of(values, nodata=nodata)


def _rgb(pixels: Pixels, kind: str) -> Pixels:
    if not kind.startswith("YBR") or pixels.dtype != np.uint8:
        return pixels
    convert = pydicom().pixels.convert_color_space
    return np.asarray(convert(pixels, kind, "RGB"))
