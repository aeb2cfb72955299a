"""The pixels of mask files: PNG, TIF, JPEG, BMP, GIF, WebP and numpy's arrays, of every depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence, UnidentifiedImageError

from sam_train.data.photos.files import open_pillow
from sam_train.data.photos.formats import TIFF_SUFFIXES
from sam_train.data.photos.tiff import open_tiff
from sam_train.masks.runs import check_size

MASK_SUFFIXES = frozenset(
    {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy", ".npz"}
)

LOSSY = frozenset({"JPEG", "MPO", "JPEG2000"})
"""Pillow's names of formats that move values. (WebP and TIF may, or may not.)"""

MAX_LABELS = 20_000
"""More different values than this are a photo, not a label map."""

MAX_PAGES = 4_096
"""Most pages of one file; more is a damaged header or no mask file."""

FOREGROUND_SHARE = 0.51
"""A pixel of a binary file is foreground above this share of the file's brightest value. It is just
over one half, so that files of {0, 1}, {0, 255} and soft edges all read as meant. ADE20K's 128, the
hidden part of an object whose visible part is 255, then counts as background."""


class MaskFileError(ValueError):
    """A mask file that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A picture of a mask file."""

    name: str
    """The page's name in messages; empty where the file has one page alone."""
    pixels: npt.NDArray[Any]
    """[H, W] or [H, W, channels]; bool, whole numbers or floats. Palette files give indices, not
    colours, unless the palette is of distinct greys."""
    alpha: bool = False
    """True if the last channel is opacity."""
    lossy: bool = False
    """True if the format moves values, as JPEG does."""


def read_pages(path: Path, *, greys: bool = True) -> Iterator[Page]:
    """Yield every page of a mask file, in order.

    Args:
        path: of any of MASK_SUFFIXES.
        greys: whether a palette of distinct greys is read by its greys, not its indices.

    Raises:
        MaskFileError: the file is missing, damaged or no picture.
    """
    try:
        if path.suffix.lower() in (".npy", ".npz"):
            yield from _arrays(path)
            return
        with open_pillow(path) as image:
            count = getattr(image, "n_frames", 1)
            if count > MAX_PAGES:
                raise ValueError(f"{count:,} pages")
            for number, frame in enumerate(ImageSequence.Iterator(image), start=1):
                # Numbered from 1, as viewers count pages.
                name = f"page {number}" if count > 1 else ""
                yield _page(frame, name=name, greys=greys, lossy=image.format in LOSSY)
    # Before the general case below, of which it is one.
    except UnidentifiedImageError as error:
        if path.suffix.lower() not in TIFF_SUFFIXES:
            raise MaskFileError(f"{path}: {error}") from error
        yield from _tiff_pages(path)
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise MaskFileError(f"{path}: {error}") from error


def first_page(path: Path) -> Page:
    """Return the first page of a mask file, a palette's by its indices.

    Raises:
        MaskFileError: the file is missing, damaged or no picture.
    """
    for page in read_pages(path, greys=False):
        return page
    raise MaskFileError(f"{path}: it holds no picture")


def _page(image: Image.Image, *, name: str, greys: bool, lossy: bool) -> Page:
    # Beyond these sizes the run lengths cannot be encoded.
    check_size(height=image.height, width=image.width)
    if greys and image.mode == "P" and (grey := _greys(image)) is not None:
        return Page(name=name, pixels=grey)
    # The other modes keep their numbers: converting a palette would replace labels by colours.
    if image.mode in ("CMYK", "YCbCr"):
        image = image.convert("RGB")
    alpha = image.mode in ("LA", "La", "RGBA", "RGBa")
    return Page(name=name, pixels=np.array(image), alpha=alpha, lossy=lossy)


def _greys(image: Image.Image) -> npt.NDArray[np.uint8] | None:
    """Return a palette picture by its greys, if that says the same as its indices.

    A GIF of a black-and-white mask has its greys in any order; a label map has colours, or greys
    of which two may be alike.
    """
    indices = np.array(image)
    used = np.unique(indices)
    palette = np.asarray(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    if used.size == 0 or used[-1] >= len(palette):
        return None
    colours = palette[used]
    grey = (colours == colours[:, :1]).all()
    distinct = np.unique(colours[:, 0]).size == used.size
    # Both dark and bright: greys that are close together are labels that somebody chose.
    spans = int(colours[:, 0].min()) < 64 and int(colours[:, 0].max()) >= 192
    if not (grey and distinct and spans):
        return None
    # A table of all indices, so that one look-up maps the whole picture.
    table = np.zeros(256, dtype=np.uint8)
    table[used] = colours[:, 0]
    return np.asarray(table[indices])


def _tiff_pages(path: Path) -> Iterator[Page]:
    """Yield the pages of a TIF whose numbers Pillow does not know: 64 bits, for instance."""
    try:
        with open_tiff(path) as file:
            for number, page in enumerate(file.pages, start=1):
                check_size(height=page.shape[0], width=page.shape[1])
                name = f"page {number}" if len(file.pages) > 1 else ""
                yield Page(name=name, pixels=page.asarray())
    except Exception as error:
        raise MaskFileError(f"{path}: {error}") from error


def _arrays(path: Path) -> Iterator[Page]:
    # allow_pickle stays off: an object array would run what its writer put in.
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        yield from _array_pages(loaded, name="")
        return
    with loaded:
        for key in sorted(loaded.files):
            yield from _array_pages(loaded[key], name=key if len(loaded.files) > 1 else "")


def _array_pages(array: npt.NDArray[Any], *, name: str) -> Iterator[Page]:
    """Yield [H, W] or [H, W, 1] as one page and a stack [N, H, W] as N of them."""
    # Frameworks write a mask's single channel last.
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        check_size(height=array.shape[0], width=array.shape[1])
        yield Page(name=name, pixels=array)
        return
    if array.ndim != 3 or len(array) > MAX_PAGES:
        raise ValueError(f"an array of shape {list(array.shape)}; masks are [H, W] or [N, H, W]")
    check_size(height=array.shape[1], width=array.shape[2])
    for number, mask in enumerate(array, start=1):
        yield Page(name=f"{name} mask {number}".strip(), pixels=mask)


def visible(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return colours [H, W, channels] without alpha, black where they are fully transparent."""
    if pixels.shape[-1] in (2, 4):
        # Colours under full transparency are arbitrary, and would become labels.
        return np.asarray(pixels[..., :-1] * (pixels[..., -1:] > 0).astype(pixels.dtype))
    return pixels


def as_labels(pixels: npt.NDArray[Any], where: object) -> npt.NDArray[np.int64]:
    """Return a label map [H, W]; a colour counts as 0xRRGGBB, NaN as 0.

    Args:
        pixels: [H, W] or [H, W, channels] of bool, whole numbers, or floats that are whole.
        where: the file, for messages.

    Raises:
        MaskFileError: they are no whole numbers.
    """
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = np.nan_to_num(pixels, nan=0.0, posinf=0.0, neginf=0.0)
        # Beyond 2^53 a float64 does not tell neighbouring whole numbers apart.
        if not (pixels == np.rint(pixels)).all() or np.abs(pixels).max(initial=0) >= 2**53:
            raise MaskFileError(f"{where}: labels must be whole numbers, found {pixels.dtype}")
    elif not np.issubdtype(pixels.dtype, np.integer) and pixels.dtype != np.bool_:
        raise MaskFileError(f"{where}: labels must be whole numbers, found {pixels.dtype}")
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    labels = np.zeros(pixels.shape[:2], dtype=np.int64)
    for channel in np.moveaxis(visible(pixels), -1, 0):
        # Of the whole colour: two objects may share a channel's value.
        labels = (labels << 8) | channel.astype(np.int64)
    return labels


def read_labels(path: Path) -> npt.NDArray[np.int64]:
    """Return the label map [H, W] of a file's first page; a colour counts as 0xRRGGBB.

    Raises:
        MaskFileError: the file cannot be read, or holds no whole numbers.
    """
    return as_labels(first_page(path).pixels, path)
