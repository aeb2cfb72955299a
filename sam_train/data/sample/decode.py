"""Untrusted bytes of one sample: the JPEG and its JSON.

EXIF orientation is ignored, as SA-1B's masks do: they lie on the pixels as stored.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from sam_train.data.shards.annotations import read_annotations
from sam_train.data.shards.part import Entry
from sam_train.masks import rle
from sam_train.types import RLE

MAX_PIXELS = 89_478_485
"""Photos above this are refused from their header, before memory is taken (a quarter of a
gigabyte as RGB; SA-1B's photos have about 3.4 million pixels)."""


class BadSample(Exception):  # noqa: N818 - it is caught and counted, not an error of the program
    """A sample cannot be used. `kind` is one of `skips.KINDS`; the message says why."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(slots=True, kw_only=True)
class Masks:
    """The masks of a photo, and their runs."""

    data: npt.NDArray[np.uint8]
    """The n compressed strings, one after the other."""
    offsets: npt.NDArray[np.int64]
    """[n + 1] string k is data[offsets[k]:offsets[k + 1]]."""
    runs: rle.Runs
    polygons: int = 0
    """Masks that were made from polygons; their strings are what was made."""
    plain: int = 0
    """Masks whose run lengths stood in the JSON as numbers; likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """The pixels of a photo of more than three bands, which is no picture to Pillow."""

    pixels: npt.NDArray[np.uint8]
    """[H, W, bands]."""

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.pixels.shape[1])


def open_entry(entry: Entry) -> Image.Image | Bands:
    """Return a sample's photo, of a JPEG not decoded yet.

    Raises:
        BadSample: as `open_photo`.
    """
    if entry.pixels is None:
        return open_photo(entry.jpeg)
    if entry.pixels.shape[2] > 3:
        return Bands(pixels=entry.pixels)
    return Image.fromarray(entry.pixels)


def to_picture(photo: Image.Image | Bands) -> Image.Image:
    """Return a photo for people to look at, in RGB; of many bands the first three.

    Raises:
        BadSample: as `to_rgb`.
    """
    if isinstance(photo, Bands):
        return Image.fromarray(np.ascontiguousarray(photo.pixels[..., :3]))
    return to_rgb(photo)


def open_photo(data: bytes) -> Image.Image:
    """Read the header of a JPEG, and not its pixels.

    Raises:
        BadSample: not a JPEG, or too large.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns about what we refuse below, and about EXIF data that we do not use.
            warnings.simplefilter("ignore")
            photo = Image.open(io.BytesIO(data), formats=("JPEG",))
    except Image.DecompressionBombError:
        raise BadSample("bad_jpeg", f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise BadSample("bad_jpeg", "not a readable JPEG") from None  # it would print an address
    except (OSError, ValueError, SyntaxError) as error:
        raise BadSample("bad_jpeg", f"not a readable JPEG ({error})") from None
    if photo.width * photo.height > MAX_PIXELS:
        raise BadSample("bad_jpeg", f"{photo.width} x {photo.height} pixels are too many")
    return photo


def to_rgb(photo: Image.Image, *, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode a photo as RGB; grey and CMYK are converted.

    Args:
        at_least: (height, width). If given, the JPEG is decoded at 1/2, 1/4 or 1/8 of its size
            where that is no smaller, which skips most of the work; sizes are rounded up.

    Raises:
        BadSample: the data is damaged.
    """
    try:
        if at_least is not None:
            # Pillow wants (width, height), and picks the DCT scale that is no smaller than that.
            photo.draft(None, at_least[::-1])
        photo.load()
        return photo if photo.mode == "RGB" else photo.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise BadSample("bad_jpeg", f"damaged JPEG ({error})") from None


def read_masks(data: bytes, *, height: int, width: int) -> Masks:
    """Read every mask of the JSON and check it against the photo's size.

    Raises:
        BadSample: it holds no annotations. A single bad one only has a status.
    """
    try:
        found = read_annotations(data, height=height, width=width)
    except ValueError as error:
        raise BadSample("bad_json", f"unreadable annotations ({error})") from None
    # One call for all masks of a photo, about 100 in SA-1B: a call's own cost exceeds a mask's.
    strings, offsets = rle.join(found.strings)
    runs = rle.parse_joined(strings, offsets, height=height, width=width)
    stated = np.array(found.status, dtype=np.int8)
    # What the JSON said about a mask comes before what its string says.
    np.copyto(runs.status, stated, where=stated != 0)
    return Masks(
        data=strings, offsets=offsets, runs=runs, polygons=found.polygons, plain=found.plain
    )


def as_rle(masks: Masks, index: int, *, height: int, width: int) -> RLE:
    """Return mask `index` in the form that pycocotools takes."""
    counts = masks.data[masks.offsets[index] : masks.offsets[index + 1]].tobytes()
    return RLE(size=[height, width], counts=counts)
