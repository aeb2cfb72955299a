"""Slices of NIfTI volumes as pictures: `case_z012.nii.gz` is slice 12 of `case.nii.gz` along z.

x, y and z are the array's own axes, as its file stores them. A slice has the later of its two axes
as rows, so that a slice along z of a body is seen with the body's sides left and right.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.raster import Pixels, Raster
from sam_train.errors import UserError

ENDINGS = (".nii.gz", ".nii")
AXES = "xyz"
MOST_BYTES = 1 << 32
"""A volume above this is refused from its header, before memory is taken."""
_KEPT_BYTES = 1 << 29

_SLICE = re.compile(r"(?P<stem>.+)_(?P<axis>[xyz])(?P<number>[0-9]{3,})(?P<ending>\.nii(\.gz)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlace:
    """A volume, and one of its slices."""

    file: Path
    axis: int
    """0, 1 or 2."""
    index: int
    """The slice, counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume in memory."""

    values: Pixels
    """[x, y, z] or [x, y, z, bands], as stored."""
    slope: float
    intercept: float
    """A voxel is `slope` times the stored value, plus this."""

    def slice_of(self, axis: int, index: int) -> Pixels:
        """Return [rows, columns] or [rows, columns, bands] with the file's scaling applied.

        Raises:
            SkipImageError: there is no such slice.
        """
        if not 0 <= index < self.values.shape[axis]:
            raise SkipImageError("no such slice", f"{index + 1} of {self.values.shape[axis]}")
        stored = np.swapaxes(np.take(self.values, index, axis=axis), 0, 1)
        if (self.slope, self.intercept) == (1.0, 0.0):
            return np.asarray(stored)
        # Whole numbers stay exact up to 2^24, far beyond any scanner's.
        return np.asarray(stored.astype(np.float32) * self.slope + self.intercept, np.float32)


def ending_of(path: Path) -> str:
    """Return `.nii.gz` or `.nii` as a name ends, "" for another file."""
    return next((e for e in ENDINGS if path.name.lower().endswith(e)), "")


def slice_name(file: Path, *, axis: int, index: int) -> Path:
    """Return the name of a slice; `index` counts from 0, the name from 1."""
    stem = file.name[: len(file.name) - len(ending_of(file))]
    ending = file.name[len(stem) :]
    return file.with_name(f"{stem}_{AXES[axis]}{index + 1:03d}{ending}")


def locate_slice(path: Path) -> SlicePlace | None:
    """Return the slice that a name means; None where it is no such name, or a file of its own."""
    match = _SLICE.fullmatch(path.name)
    if match is None or int(match["number"]) < 1 or path.exists():
        return None
    return SlicePlace(
        file=path.with_name(match["stem"] + match["ending"]),
        axis=AXES.index(match["axis"]),
        index=int(match["number"]) - 1,
    )


def nibabel() -> Any:
    """Import the reader of NIfTI files.

    Raises:
        UserError: it is not installed.
    """
    try:
        import nibabel as found  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise UserError(
            f"NIfTI volumes need {error.name}: pip install 'sam_train[medical]'"
        ) from error
    return found


def header_of(file: Path) -> Any:
    """Open a volume without reading its voxels: nibabel's image.

    Raises:
        SkipImageError: it is missing, damaged, too large or of another form.
    """
    try:
        image = nibabel().load(file)
        shape, itemsize = image.shape, image.header.get_data_dtype().itemsize
    except UserError:
        raise
    except FileNotFoundError:
        raise SkipImageError("missing image", str(file)) from None
    except Exception as error:  # nibabel has its own errors, and raises those of the file's codec
        raise SkipImageError("unreadable volume", f"{file}: {error}") from None
    if len(shape) not in (3, 4) or 0 in shape:
        raise SkipImageError("no volume", f"{file}: an array of shape {list(shape)}")
    if int(np.prod(shape, dtype=np.int64)) * itemsize > MOST_BYTES:
        raise SkipImageError("volume of over 4 GiB", f"{file}: shape {list(shape)}")
    return image


# By process. A gzip stream has no way to its middle, so a volume is decoded whole, and slices of
# one case are often read one after the other.
_kept: OrderedDict[tuple[str, int, int], Volume] = OrderedDict()


def read_volume(file: Path) -> Volume:
    """Read a volume; the last few of a process are kept.

    Raises:
        SkipImageError: as `header_of`.
    """
    try:
        status = file.stat()
    except OSError:
        raise SkipImageError("missing image", str(file)) from None
    key = (str(file), status.st_size, status.st_mtime_ns)
    # `pop`, not a look first: another thread may take it in between.
    found = _kept.pop(key, None) or _read(file)
    _kept[key] = found
    while len(_kept) > 1 and sum(each.values.nbytes for each in list(_kept.values())) > _KEPT_BYTES:
        _kept.popitem(last=False)
    return found


def _read(file: Path) -> Volume:
    image = header_of(file)
    try:
        proxy = image.dataobj
        values = np.asarray(proxy.get_unscaled())
        slope, intercept = float(proxy.slope), float(proxy.inter)
    except (OSError, EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise SkipImageError("unreadable volume", f"{file}: {error}") from None
    return Volume(
        values=values.astype(values.dtype.newbyteorder("="), copy=False),
        slope=slope,
        intercept=intercept,
    )


def read_slice(place: SlicePlace) -> Raster:
    """Return a slice of a volume as a picture.

    Raises:
        SkipImageError: as `read_volume` and `Volume.slice_of`.
    """
    pixels = read_volume(place.file).slice_of(place.axis, place.index)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return Raster(
        height=pixels.shape[0],
        width=pixels.shape[1],
        bands=pixels.shape[2],
        dtype=pixels.dtype,
        rows=lambda top, bottom: pixels[top:bottom],
    )
