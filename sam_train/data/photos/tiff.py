"""Pictures of a TIFF: its pages, the planes of a microscope's stack, and parts of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from sam_train.data.photos.raster import Pixels, Raster

_SMALLER_OR_MASK = 0b101
"""Bits of NewSubfileType: a smaller copy of another page (overviews, thumbnails), or its mask."""
_ORIENTATION, _NODATA = 274, 42113
_UNASSOCIATED, _ASSOCIATED = 2, 1
_MINISWHITE, _MINISBLACK, _RGB, _YCBCR = 0, 1, 2, 6
_JPEG = (6, 7)

# What is wrong with a file is said by the error that follows; odd tags are nobody's concern.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    """The pages that make one picture: one, or one for each of its bands."""

    pages: tuple[Any, ...]
    stack: Callable[[], Pixels] | None = None
    """Reads [bands, H, W] where the file has one page for a whole stack."""


@contextmanager
def open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF."""
    with tifffile.TiffFile(path) as file:
        yield file


def count_planes(path: Path) -> int:
    """Return how many pictures a TIFF holds, without its overviews and masks."""
    with open_tiff(path) as file:
        return len(_planes(file))


def read_plane(file: tifffile.TiffFile, number: int) -> Raster | None:
    """Return picture `number` (from 0) of an open file, or None if Pillow has to read it, because
    its colours are indices, CMYK, CIELab or compressed YCbCr.

    Raises:
        ValueError: there is no such picture.
    """
    planes = _planes(file)
    if number >= len(planes):
        raise ValueError(f"it has {len(planes)} pictures")
    plane = planes[number]
    page = plane.pages[0].aspage()
    jpeg = int(page.photometric) == _YCBCR and int(page.compression) in _JPEG
    # Palettes, CMYK and CIELab need the conversions that Pillow has.
    if int(page.photometric) not in (_MINISWHITE, _MINISBLACK, _RGB) and not jpeg:
        return None
    samples = int(page.samplesperpixel)
    # A microscope's channels are pages of their own, a photo's are samples of one page.
    bands = max(len(plane.pages), samples) if plane.stack is None else plane.stack().shape[0]
    alpha, premultiplied = _alpha(page, colours=samples - len(page.extrasamples))
    dtype = np.dtype(page.dtype)
    inverted = int(page.photometric) == _MINISWHITE
    one_bit = dtype.kind == "b" or int(page.bitspersample) == 1
    read = _reader(plane)

    def rows(top: int, bottom: int) -> Pixels:
        pixels = read(top, bottom)
        if one_bit:
            # Two values are black and white; 0 and 1 would both be seen as black.
            pixels = (pixels != 0).astype(np.uint8) * np.uint8(255)
        # MINISWHITE: 0 is white.
        if inverted:
            pixels = _inverted(pixels)
        return pixels

    return Raster(
        height=int(page.imagelength),
        width=int(page.imagewidth),
        bands=bands,
        dtype=np.dtype(np.uint8) if one_bit else dtype,
        rows=rows,
        is_colour=(int(page.photometric) == _RGB or jpeg) and samples >= 3,
        alpha=alpha,
        premultiplied=premultiplied,
        nodata=_nodata(page),
        orientation=int(page.tags.valueof(_ORIENTATION, 1) or 1),
    )


def _inverted(pixels: Pixels) -> Pixels:
    if pixels.dtype.kind == "u":
        return np.asarray(np.iinfo(pixels.dtype).max - pixels)
    # `~x` is -x - 1, which does not overflow at the lowest number.
    return np.asarray(~pixels if pixels.dtype.kind == "i" else -pixels)


def _alpha(page: Any, *, colours: int) -> tuple[int | None, bool]:
    """Return the band that is marked as transparency, and whether colours are multiplied."""
    for index, kind in enumerate(page.extrasamples):
        if int(kind) in (_ASSOCIATED, _UNASSOCIATED):
            return colours + index, int(kind) == _ASSOCIATED
    return None, False


def _nodata(page: Any) -> float | None:
    """Read GDAL's tag, a number as text; None where it is missing or no number."""
    text = page.tags.valueof(_NODATA)
    try:
        return None if text is None else float(str(text).strip().strip("\0"))
    except ValueError:
        return None


def _planes(file: tifffile.TiffFile) -> list[_Plane]:
    # These formats say which pages are channels, depths and times; other TIFFs list pictures.
    if file.is_imagej or file.is_ome:
        return _stack(file.series[0])
    pages = [page for page in file.pages if not _is_beside(page)]
    return [_Plane(pages=(page,)) for page in pages]


def _is_beside(page: Any) -> bool:
    # A frame has no tags of its own; its page does.
    return bool(int(page.aspage().subfiletype) & _SMALLER_OR_MASK)


def _stack(series: Any) -> list[_Plane]:
    """Return a microscope stack's planes: over depth and time, with the channels as bands."""
    axes = str(series.axes)
    inner = len(axes) - len(series.keyframe.axes)
    outer, lengths = axes[:inner], series.shape[:inner]
    count = int(np.prod(lengths, dtype=np.int64))
    order = np.arange(count).reshape(lengths)
    channels = outer.find("C")
    if channels >= 0 and int(series.keyframe.samplesperpixel) == 1:
        # Pages of one place at all channels stand side by side: they are one picture.
        order = np.moveaxis(order, channels, -1).reshape(-1, lengths[channels])
    else:
        order = order.reshape(-1, 1)
    if len(series.pages) == count and all(page is not None for page in series.pages):
        return [_Plane(pages=tuple(series.pages[int(k)] for k in row)) for row in order]

    def reading(row: npt.NDArray[np.int64]) -> Callable[[], Pixels]:
        def read() -> Pixels:
            shape = (count, *series.shape[inner:])
            # ImageJ writes one page for a stack of any length, whose pixels follow without a gap.
            whole = series.parent.filehandle.memmap_array(
                series.parent.byteorder + series.dtype.char, shape, offset=series.dataoffset
            )
            return np.asarray(whole[row])

        return read

    return [_Plane(pages=(series.keyframe,), stack=reading(row)) for row in order]


def _reader(plane: _Plane) -> Callable[[int, int], Pixels]:
    """Make a function that reads rows of a plane as [rows, W, bands]."""
    if plane.stack is not None:
        stack = plane.stack
        return lambda top, bottom: np.moveaxis(stack()[:, top:bottom], 0, -1)
    readers = [_page_reader(each.aspage()) for each in plane.pages]
    return lambda top, bottom: np.concatenate([read(top, bottom) for read in readers], axis=-1)


def _page_reader(page: Any) -> Callable[[int, int], Pixels]:
    """Make a function that reads rows of a page as [rows, W, samples], not the rest if it can."""
    kind = np.dtype(page.dtype)
    if page.is_memmappable:
        stored = page.parent.byteorder + kind.char

        def mapped(top: int, bottom: int) -> Pixels:
            whole = page.parent.filehandle.memmap_array(
                stored, page.shaped, offset=page.dataoffsets[0]
            )
            # [planes, depth, H, W, samples of a pixel]: one of planes and samples is 1.
            part = np.moveaxis(np.asarray(whole[:, 0, top:bottom]), 0, -1)
            return np.asarray(part.reshape(bottom - top, part.shape[1], -1), dtype=kind)

        return mapped
    # A file of one compressed strip is decoded once, not for every few rows.
    single = not page.is_tiled and int(page.rowsperstrip) >= int(page.imagelength)
    whole: list[Pixels] = []

    def decoded(top: int, bottom: int) -> Pixels:
        if not single:
            return _decode_rows(page, top, bottom)
        if not whole:
            whole.append(_decode_rows(page, 0, int(page.imagelength)))
        return whole[0][top:bottom]

    return decoded


def _decode_rows(page: Any, top: int, bottom: int) -> Pixels:
    """Decode the strips or tiles that some rows lie in: [bottom - top, W, samples]."""
    height, width = int(page.imagelength), int(page.imagewidth)
    samples = int(page.samplesperpixel)
    planar = int(page.planarconfig) == 2 and samples > 1
    tall = int(page.tilelength) if page.is_tiled else min(int(page.rowsperstrip), height)
    across = -(-width // int(page.tilewidth)) if page.is_tiled else 1
    # Rounded up: the last strip or tile may stick out below.
    per_plane = -(-height // tall) * across
    # All tiles across: the rows that are asked for are whole.
    begin, end = top // tall * across, -(-bottom // tall) * across
    out: Pixels = np.zeros((bottom - top, width, samples), dtype=page.dtype)
    # JPEG tiles share what stands in the page's header.
    is_jpeg = int(page.compression) in _JPEG
    shared = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if is_jpeg else {}
    for plane in range(samples if planar else 1):
        for index in range(plane * per_plane + begin, plane * per_plane + end):
            pixels, place, _ = page.decode(_segment(page, index), index, **shared)
            if pixels is None:  # an empty part of a sparse file
                continue
            block, (sample, _, row, column, _) = pixels[0], place
            upper, lower = max(row, top), min(row + block.shape[0], bottom)
            # Tiles at the right and bottom are padded, and what is padding is cut off.
            part = block[max(upper - row, 0) : max(lower - row, 0), : width - column]
            where = (slice(upper - top, lower - top), slice(column, column + part.shape[1]))
            if planar:
                out[(*where, sample)] = part[..., 0]
            else:
                out[where] = part
    return out


def _segment(page: Any, index: int) -> bytes | None:
    if index >= len(page.databytecounts) or not page.databytecounts[index]:
        return None
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index])
    return bytes(file.read(page.databytecounts[index]))
