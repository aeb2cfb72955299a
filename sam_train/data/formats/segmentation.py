"""A `segmentation` of COCO's JSON in the forms that programs give it, as a checked mask."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from sam_train.masks.runs import Segmentation, check_size, checked_rle, polygons_rle, union_rle

_NOTHING = (b"", b"null", b"[]", b"{}", b'""', b"[[]]")
_DEEPEST = 4
"""Lists within lists of the deepest form: polygons of pairs in one list."""

Floats = npt.NDArray[np.float64]


class CocoRle(msgspec.Struct):
    """A segmentation that is not a list of polygons."""

    size: list[int]
    counts: str | list[int]


class NoSegmentationError(ValueError):
    """The annotation has no segmentation at all."""


def parse_segmentation(
    text: bytes, height: int, width: int, *, normalised: bool = False
) -> Segmentation:
    """Return a COCO `segmentation` as a compressed RLE.

    Polygons are lists of numbers, of [x, y] pairs or of {"x", "y"}, one or several. Runs are
    plain or compressed, alone or in a list whose union is taken.

    Args:
        text: its JSON.
        height: of the image, and
        width: in pixels; runs have a size of their own.
        normalised: the coordinates of polygons are fractions of width and height.

    Raises:
        NoSegmentationError: there is none.
        ValueError: it is none of these, or does not fit the image. (msgspec's errors are such.)
    """
    if is_nothing(text):
        raise NoSegmentationError("it has none")
    check_size(height=height, width=width)
    try:
        # COCO's own two forms first, in one typed pass; all others take the slow way.
        strict = msgspec.json.decode(text, type=list[list[float]] | CocoRle)
        if isinstance(strict, CocoRle):
            return any_rle({"size": strict.size, "counts": strict.counts}, height, width)
        # A list of pairs is one polygon, which only the other way sees.
        if any(len(polygon) > 2 for polygon in strict):
            polygons = [np.asarray(polygon, dtype=np.float64) for polygon in strict]
            return _rasterised(polygons, height, width, normalised=normalised)
    except msgspec.ValidationError:
        pass
    content = _content(text)
    if rles := _rles(content):
        masks = [any_rle(rle, height, width) for rle in rles]
        if len(masks) == 1:
            return masks[0]
        # pycocotools merges masks of different sizes without an error.
        if len({tuple(mask["size"]) for mask in masks}) > 1:
            raise ValueError("its parts are of different sizes")
        return union_rle(masks)
    return _rasterised(_polygons(content), height, width, normalised=normalised)


def is_nothing(text: bytes) -> bool:
    """Tell whether a segmentation's JSON text holds none."""
    return len(text) < 16 and b"".join(bytes(text).split()) in _NOTHING


def largest_coordinate(text: bytes) -> float | None:
    """Return the largest coordinate of a segmentation's polygons; None where it has none.

    Negative ones count by a large number: fractions of a photo are not negative.
    """
    if is_nothing(text):
        return None
    try:
        content = _content(text)
        if _rles(content):
            return None
        points = np.concatenate(_polygons(content))
    except ValueError:
        return None
    if points.size == 0 or not np.isfinite(points).all():
        return None
    return np.inf if points.min() < -_FRACTION_SLACK else float(points.max())


_FRACTION_SLACK = 0.01
"""Fractions that a tool rounds may lie so far beyond the photo."""
LARGEST_FRACTION = 1 + _FRACTION_SLACK
SMALLEST_PHOTO = 8
"""Pixels of a longer side below which coordinates up to 1 may be pixels."""


def _content(text: bytes) -> Any:
    """Return the segmentation; one that is JSON within a JSON string, too."""
    content = msgspec.json.decode(text)
    if isinstance(content, str):
        if content[:1] not in "[{" or not content:
            raise ValueError("it is a text, neither polygons nor runs")
        content = msgspec.json.decode(content)
    return content


def _rles(content: Any) -> list[Mapping[str, Any]]:
    """Return the run lengths among a segmentation's parts, if it consists of such."""
    if isinstance(content, Mapping):
        if "counts" not in content:
            raise ValueError("it is an object without `counts`")
        return [content]
    if isinstance(content, list) and content:
        rles = [c for c in content if isinstance(c, Mapping) and "counts" in c]
        if rles and len(rles) < len(content):
            raise ValueError("it mixes runs and polygons")
        return rles
    return []


def any_rle(rle: Mapping[str, Any], height: int, width: int) -> Segmentation:
    """Return run lengths of any form as a compressed RLE.

    Args:
        rle: `counts`, and `size` [height, width]; without it,
        height: of the image, and
        width: are taken.

    Raises:
        ValueError: they are no runs, or do not fill the size.
    """
    size = rle.get("size")
    size = [height, width] if size is None else _whole(size, "size").tolist()
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = counts.strip()
        if counts[:2] in ("b'", 'b"'):  # Python's text of bytes
            try:
                counts = ast.literal_eval(counts)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise ValueError("the counts are a damaged text of bytes") from None
        elif counts[:1] == "[" and "," in counts:  # COCO's coding has brackets, but no comma
            counts = msgspec.json.decode(counts)
    if isinstance(counts, list):
        counts = _whole(counts, "counts").tolist()
    if not isinstance(counts, str | bytes | list):
        raise ValueError("the counts are neither a text nor a list")
    return checked_rle(size, counts)


def _whole(values: Any, name: str) -> npt.NDArray[np.int64]:
    found = _floats(values)
    if not np.isfinite(found).all() or (found != np.floor(found)).any():
        raise ValueError(f"RLE: {name} holds what is no whole number")
    if found.size and np.abs(found).max() >= 2**53:
        raise ValueError(f"RLE: {name} holds an absurd number")
    return found.astype(np.int64)


def _floats(values: Any) -> Floats:
    """Return a flat list as float64 [n]: numbers as text count, null is NaN."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("it holds what is no number") from None
    if found.ndim != 1:
        raise ValueError("it is no list of numbers")
    return found


def _polygons(content: Any, depth: int = 0) -> list[Floats]:
    """Return every polygon of a segmentation, x0 y0 x1 y1 ... as float64 [2n]."""
    if not isinstance(content, list) or depth > _DEEPEST:
        raise ValueError("it is neither polygons nor runs")
    if not content:
        return []
    if all(isinstance(c, Mapping) for c in content):
        # A missing axis becomes NaN, which is refused later.
        return [_floats([c.get(axis) for c in content for axis in ("x", "y")])]
    if not any(isinstance(c, list | Mapping) for c in content):
        return [_floats(content)]
    if not all(isinstance(c, list) for c in content):
        raise ValueError("it mixes numbers and lists")
    if all(_is_pair(c) for c in content):
        return [_floats([value for pair in content for value in pair])]
    # OpenCV's contours: every point is a list of one pair.
    if len(content) > 2 and all(len(c) == 1 and _is_pair(c[0]) for c in content):
        return [_floats([value for (pair,) in content for value in pair])]
    return [polygon for c in content for polygon in _polygons(c, depth + 1)]


def _in_one_pixel(polygons: Sequence[Floats]) -> bool:
    """Tell whether all corners are fractions between 0 and 1, not the whole numbers."""
    # Whole 0s and 1s are pixels of a tiny object; fractions between them are not.
    corners = np.concatenate(polygons)
    inside = corners.min() >= 0 and corners.max() <= 1
    return bool(inside and (corners != np.floor(corners)).any())


def _is_pair(content: Any) -> bool:
    return (
        isinstance(content, list)
        and len(content) == 2
        and not any(isinstance(value, list | Mapping) for value in content)
    )


def _rasterised(
    polygons: Sequence[Floats], height: int, width: int, *, normalised: bool
) -> Segmentation:
    # Fewer than three corners enclose nothing, and pycocotools takes four numbers for a box.
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons:
        raise ValueError("it has no polygon of three corners")
    # Outlines may leave the photo a little, as tools that do not clip write them.
    limit = 2 * max(height, width)
    scaled = []
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError("a polygon has an odd number of coordinates")
        if not np.isfinite(polygon).all():
            raise ValueError("a coordinate is no number")
        sides = [width, height] if normalised else [1, 1]
        pixels = polygon * np.tile(sides, len(polygon) // 2)
        # pycocotools takes memory by the length of a polygon's outline, wherever it lies.
        if np.abs(pixels).max() > limit:
            raise ValueError("a polygon lies far outside the image")
        scaled.append(pixels.tolist())
    if not normalised and max(height, width) >= SMALLEST_PHOTO and _in_one_pixel(polygons):
        raise ValueError("its coordinates lie between 0 and 1, those of other masks do not")
    return polygons_rle(scaled, height=height, width=width)
