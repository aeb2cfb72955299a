"""SA-1B's JSON of one photo, and what people's own scripts make of it: a string of run lengths for
each mask, or the reason why it has none.

The published files take the short way: one typed pass, and nothing but sizes and strings is made.
Whatever that pass refuses is read again value by value, so that one bad annotation costs only
itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from sam_train.masks import rle

MAX_POLYGON_PIXELS = 3 * 2**24
"""Photos above this have no polygons read: pycocotools' encoder can overrun its buffer there."""
_CHARACTERS = 7
"""Characters of the longest number: 35 bits, more than any photo has pixels."""


class _Segmentation(msgspec.Struct):
    # Floats, so that a size written as 1500.0 is taken, too.
    size: tuple[float, float]
    counts: str


class _Annotation(msgspec.Struct):
    segmentation: _Segmentation


class _AnnotationFile(msgspec.Struct):
    annotations: list[_Annotation]


# Only what training uses is parsed; the other fields of SA-1B may be missing.
_published = msgspec.json.Decoder(_AnnotationFile)


@dataclass(slots=True, kw_only=True)
class Annotations:
    """The masks of one JSON, in their order."""

    strings: list[bytes] = field(default_factory=list)
    """n compressed run lengths; empty where there are none."""
    status: list[int] = field(default_factory=list)
    """n places in `rle.PROBLEMS`; 0 says nothing about the string, which is not parsed here."""
    polygons: int = 0
    """Masks that were made from polygons."""
    plain: int = 0
    """Masks whose run lengths stood there as numbers."""

    def add(self, string: bytes, status: int = 0) -> None:
        """Append a mask."""
        self.strings.append(string)
        self.status.append(status)


def read_annotations(data: bytes, *, height: int, width: int) -> Annotations:
    """Read every mask of a JSON, for a photo of height x width pixels.

    Raises:
        ValueError: it is no JSON, or holds no list of annotations.
    """
    found = Annotations()
    try:
        # SA-1B's own form first: typed, and in one pass.
        for annotation in _published.decode(data).annotations:
            segmentation = annotation.segmentation
            fits = segmentation.size == (height, width)
            found.add(segmentation.counts.encode(), 0 if fits else rle.SIZE_DISAGREES)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # Anew: a file may break off after some masks of the published form.
        found = Annotations()
        for item in annotations_of(read_document(data)):
            _read(item, found, height=height, width=width)
    return found


def read_document(data: bytes) -> Any:
    """Decode a JSON, NaN, byte order marks and UTF-16 included.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        problem = str(error)
    try:
        # The standard library reads what it and numpy's users write, though it is no JSON.
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(problem) from None


def annotations_of(document: Any) -> list[Any]:
    """Return the list `annotations`, or the document where it is such a list itself, as
    segment-anything's own script writes it.

    Raises:
        ValueError: there is none.
    """
    found = document.get("annotations") if isinstance(document, dict) else document
    if not isinstance(found, list):
        raise ValueError("it has no list `annotations`")
    return found


def _read(item: Any, found: Annotations, *, height: int, width: int) -> None:
    if not isinstance(item, dict):
        found.add(b"", rle.NO_OBJECT)
        return
    segmentation = item.get("segmentation")
    # Boxes without masks are common in other programs' files, and no fault.
    if segmentation is None or segmentation in ([], {}):
        found.add(b"", rle.NO_SEGMENTATION)
    elif isinstance(segmentation, dict):
        _read_runs(segmentation, found, height=height, width=width)
    elif isinstance(segmentation, list):
        _read_polygons(segmentation, found, height=height, width=width)
    else:
        found.add(b"", rle.UNKNOWN_SEGMENTATION)


def _read_runs(
    segmentation: dict[str, Any], found: Annotations, *, height: int, width: int
) -> None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        found.add(b"", rle.NO_SIZE)
        return
    # COCO's order: height before width.
    fits = [_number(side) for side in size] == [height, width]
    status = 0 if fits else rle.SIZE_DISAGREES
    # Compressed: the string is parsed later, for all masks of the photo at once.
    if isinstance(counts, str):
        # Whatever text it is: the parser refuses characters that are no run lengths.
        found.add(counts.encode("utf-8", "surrogatepass"), status)
        return
    numbers = [_number(run) for run in counts] if isinstance(counts, list) else [None]
    if not all(number is not None and number.is_integer() for number in numbers):
        found.add(b"", rle.NO_RUNS)
    elif any(number is not None and not 0 <= number <= height * width for number in numbers):
        # Such runs need more characters than any photo's; which of the two it is, is known here.
        negative = any(number is not None and number < 0 for number in numbers)
        found.add(b"", status or (rle.NEGATIVE if negative else rle.TOO_LONG))
    else:
        found.add(compress(np.array(numbers, dtype=np.int64)), status)
        found.plain += not status and sum(filter(None, numbers)) == height * width


def _read_polygons(segmentation: list[Any], found: Annotations, *, height: int, width: int) -> None:
    polygons = list(_polygons(segmentation))
    if height * width > MAX_POLYGON_PIXELS:
        found.add(b"", rle.POLYGON_OF_LARGE_PHOTO)
    elif not polygons or any(len(each) < 6 or len(each) % 2 for each in polygons):
        found.add(b"", rle.BAD_POLYGON)
    elif (farthest := max(abs(value) for each in polygons for value in each)) <= 1:
        found.add(b"", rle.RELATIVE_POLYGON)
    # `not <=` instead of `>` refuses NaN, too.
    elif not farthest <= 2 * max(height, width):
        # pycocotools takes memory by the length of a polygon's outline, wherever it lies.
        found.add(b"", rle.FAR_POLYGON)
    else:
        # The union: COCO writes an object that is hidden in part as several polygons.
        merged = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        found.add(bytes(merged["counts"]))
        found.polygons += 1


def _polygons(values: list[Any]) -> Iterator[list[float]]:
    """Return each polygon as x, y, x, y: written so, or as pairs, alone or in a list of several.

    A polygon that holds anything but numbers comes as an empty one.
    """
    if not isinstance(values[0], list):
        yield _numbers(values)
    elif all(isinstance(each, list) and len(each) == 2 for each in values):
        # [[a, b], [c, d]] may be two pairs, or two polygons of two pairs each: what a is decides.
        pairs = [_numbers(each) for each in values]
        if all(isinstance(number, list) for each in values for number in each):
            for each in values:  # two polygons of pairs
                yield from _polygons(each) if each else [[]]
            return
        yield [] if [] in pairs else [number for pair in pairs for number in pair]
    else:
        for each in values:
            if isinstance(each, list) and each:
                yield from _polygons(each)
            else:
                yield []


def _numbers(values: Sequence[Any]) -> list[float]:
    """Return the values as numbers; empty where one of them is none."""
    found = [_number(value) for value in values]
    return [] if None in found else [number for number in found if number is not None]


def _number(value: Any) -> float | None:
    """Return a finite number, also where it is written as text; None for anything else."""
    # bool is an int in Python; True is no coordinate.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def compress(runs: npt.NDArray[np.int64]) -> bytes:
    """Write run lengths as COCO's compressed string.

    Args:
        runs: int64 [n], background first, below 2^34.
    """
    values = runs.copy()
    # From the fourth run on, the string holds the difference from two runs before.
    values[3:] -= runs[1:-2]
    places = np.arange(_CHARACTERS)
    # Five bits a character, lowest first; bit 5 says that more follow.
    parts = values[:, None] >> 5 * places
    # A number ends where the rest is its sign, and the sign is the last character's bit 4.
    rest = parts >> 4
    done = (rest == 0) | (rest == -1)
    last = done.argmax(axis=1)
    characters = (parts & 31) + 48 + 32 * (places < last[:, None])
    return bytes(characters[places <= last[:, None]].astype(np.uint8))
