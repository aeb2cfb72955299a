"""Checks of one sample: its JPEG, its JSON field for field, and every mask in it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sam_train.data.sample.decode import (
    MAX_PIXELS,
    BadSample,
    as_rle,
    open_photo,
    read_masks,
    to_rgb,
)
from sam_train.data.shards.annotations import annotations_of, read_document
from sam_train.masks import rle

_ADDRESS = re.compile(r" <_io\.BytesIO object at 0x[0-9a-f]+>")
"""The place where Pillow had a file in memory: another one in every run."""
MAX_SCORE = 1.5
"""predicted_iou is a regression and passes 1 now and then; anything above this is no IoU."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem."""

    what: str
    unusable: bool = False
    """Training cannot or should not use the sample: it goes on the exclusion list."""


SHARD_KINDS = {
    "unreadable_shard": Kind("the shard cannot be read, or is no tar"),
    "cut_shard": Kind("the tar is cut or has a damaged header; what came before was checked"),
    "no_sample": Kind("the shard holds no pair of photo and JSON"),
    "photo_without_json": Kind("a .jpg without its .json; not read in training"),
    "json_without_photo": Kind("a .json without its .jpg; not read in training"),
    "other_file": Kind("neither a .jpg nor a .json; not read in training"),
    "repeated_member": Kind("a name occurs twice in the shard; the last one is read"),
    "refused_member": Kind("a link, a device or a name that points out of the tar; never read"),
}
SAMPLE_KINDS = {
    "unreadable": Kind("the sample could not be read from the shard", unusable=True),
    "bad_jpeg": Kind("no JPEG, damaged, or of too many pixels", unusable=True),
    "bad_json": Kind("no JSON of SA-1B's kind", unusable=True),
    "no_mask": Kind("no mask that training could use", unusable=True),
    "image_size": Kind("width and height differ from the photo's"),
    "image_name": Kind("image_id or file_name is not that of the member's name"),
    "repeated_key": Kind("another shard has a sample of this name", unusable=True),
    "repeated_image_id": Kind("another sample has this image_id", unusable=True),
    "repeated_photo": Kind("another sample has exactly these JPEG bytes", unusable=True),
}
MASK_KINDS = {
    "schema": Kind("a field is missing, or of another type or range than SA-1B's"),
    "bad_rle": Kind("no mask of the photo's size can be read; training leaves it out"),
    "empty_mask": Kind("a mask without a pixel; training leaves it out"),
    "area": Kind("area is not the number of the RLE's pixels"),
    "bbox": Kind("bbox is not the RLE's extent (w and h are last minus first)"),
    "repeated_mask": Kind("the photo has the same mask twice"),
    "repeated_mask_id": Kind("the photo has two masks of one id"),
}
KINDS = SHARD_KINDS | SAMPLE_KINDS | MASK_KINDS
REPEATS = ("repeated_key", "repeated_image_id", "repeated_photo")
"""Known only when all shards have been seen."""


@dataclass(slots=True, kw_only=True)
class Checked:
    """Findings of one sample."""

    masks: int = 0
    image_id: int = -1
    """-1 if the JSON does not say."""
    jpeg_hash: int = 0
    """64 bits of the photo's bytes; 0 if it could not be read."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Problems by kind: one line per finding."""

    def add(self, kind: str, detail: str) -> None:
        """Note a finding."""
        self.problems.setdefault(kind, []).append(detail)


def hash64(data: bytes) -> int:
    """Hash to 64 cryptographic bits: of 11 million photos, two different ones agree with a
    probability of 3e-6."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def check_sample(key: str, jpeg: bytes, text: bytes, *, decode: bool) -> Checked:
    """Check the two files of a sample.

    Args:
        key: the members' name without extension.
        decode: decode the whole photo, not only its header.
    """
    found = Checked(jpeg_hash=hash64(jpeg))
    photo_size = _check_photo(jpeg, found, decode=decode)
    try:
        document = read_document(text)
    except ValueError as error:
        found.add("bad_json", f"unreadable ({error})")
        return found
    record = document if isinstance(document, dict) else {}
    _check_image(record.get("image"), key, photo_size, found)
    try:
        annotations = annotations_of(document)
    except ValueError:
        found.add("bad_json", "has no list `annotations`")
        return found
    found.masks = len(annotations)
    size = photo_size or _stated_size(record.get("image"))
    for index, annotation in enumerate(annotations):
        for detail in schema_problems(annotation, size=size):
            found.add("schema", f"annotation {index}: {detail}")
    if size:
        _check_masks(text, annotations, size, found)
    return found


def _check_photo(jpeg: bytes, found: Checked, *, decode: bool) -> tuple[int, int] | None:
    """Check the photo; returns (height, width), or None if even its header is bad."""
    try:
        photo = open_photo(jpeg)
        # A file that lacks its end marker may still be whole: only decoding it tells.
        if decode or b"\xff\xd9" not in jpeg[-1024:]:
            to_rgb(photo)
    except BadSample as error:
        found.add("bad_jpeg", _ADDRESS.sub("", str(error)))
        return None
    return photo.height, photo.width


def _stated_size(image: Any) -> tuple[int, int] | None:
    """Return (height, width) of the JSON if they are sane, for a photo that cannot be read."""
    if not isinstance(image, dict):
        return None
    height, width = whole(image.get("height")), whole(image.get("width"))
    if not height or not width or min(height, width) < 1 or height * width > MAX_PIXELS:
        return None
    return height, width


def _check_image(image: Any, key: str, photo_size: tuple[int, int] | None, found: Checked) -> None:
    if not isinstance(image, dict):
        found.add("schema", "`image` is missing or no object")
        return
    for name in ("image_id", "width", "height"):
        value = whole(image.get(name))
        if value is None or value < (name != "image_id"):
            found.add("schema", f"image.{name} is {_shown(image, name)}, not a positive integer")
    if not isinstance(image.get("file_name"), str):
        found.add("schema", f"image.file_name is {_shown(image, 'file_name')}, not a text")
    image_id, file_name = whole(image.get("image_id")), image.get("file_name")
    if image_id is not None and 0 <= image_id < 1 << 63:
        found.image_id = image_id
        if key.rpartition("/")[2] != f"sa_{image_id}":
            found.add("image_name", f"image_id is {image_id}")
    if isinstance(file_name, str) and file_name != f"{key.rpartition('/')[2]}.jpg":
        found.add("image_name", f"file_name is {file_name[:80]!r}")
    stated = (whole(image.get("height")), whole(image.get("width")))
    if photo_size and None not in stated and stated != photo_size:
        found.add(
            "image_size",
            f"{stated[1]} x {stated[0]}, the photo has {photo_size[1]} x {photo_size[0]}",
        )


def schema_problems(annotation: Any, *, size: tuple[int, int] | None) -> Iterator[str]:
    """List the problems of one annotation's fields, the RLE's own content aside.

    Whole numbers may be written as floats (`12.0`) and the other way round; fields that SA-1B does
    not have are allowed.

    Args:
        size: (height, width) of the photo, for the ranges; None if it is not known.
    """
    if not isinstance(annotation, dict):
        yield "is no object"
        return
    for name in ("id", "area"):
        value = whole(annotation.get(name))
        if value is None or value < 0:
            yield f"{name} is {_shown(annotation, name)}, not an integer from 0 up"
    for name, most in (("predicted_iou", MAX_SCORE), ("stability_score", 1.0)):
        number = finite(annotation.get(name))
        if number is None or not 0 <= number <= most:
            yield f"{name} is {_shown(annotation, name)}, not a number from 0 to {most:g}"
    for name in ("bbox", "crop_box"):
        box = numbers(annotation.get(name), 4)
        if box is None or min(box) < 0:
            yield f"{name} is {_shown(annotation, name)}, not [x, y, w, h]"
        elif size and (box[0] + box[2] > size[1] or box[1] + box[3] > size[0]):
            yield f"{name} {box} leaves the photo of {size[1]} x {size[0]}"
    points = annotation.get("point_coords")
    point = numbers(points[0], 2) if isinstance(points, list) and len(points) == 1 else None
    if point is None:
        yield f"point_coords is {_shown(annotation, 'point_coords')}, not [[x, y]]"
    elif min(point) < 0 or (size and (point[0] > size[1] or point[1] > size[0])):
        yield f"point_coords {point} lies outside of the photo"
    yield from _segmentation_problems(annotation)


def _segmentation_problems(annotation: dict[str, Any]) -> Iterator[str]:
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        yield "segmentation is a list, as of polygons, not run lengths"
        return
    if not isinstance(segmentation, dict):
        yield "segmentation is missing or no object"
        return
    if numbers(segmentation.get("size"), 2) is None:
        yield f"segmentation.size is {_shown(segmentation, 'size')}, not [height, width]"
    if not isinstance(segmentation.get("counts"), str):
        yield f"segmentation.counts is {_shown(segmentation, 'counts')}, not a text"


def whole(value: Any) -> int | None:
    """Return a whole number of a JSON, `12` or `12.0`; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def finite(value: Any) -> float | None:
    """Return a finite number of a JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def numbers(value: Any, length: int) -> list[float] | None:
    """Return a list of that many finite numbers; None for anything else."""
    if not isinstance(value, list) or len(value) != length:
        return None
    found = [number for item in value if (number := finite(item)) is not None]
    return found if len(found) == length else None


def _shown(record: dict[str, Any], name: str) -> str:
    return repr(record[name])[:60] if name in record else "missing"


def _check_masks(
    text: bytes, annotations: list[Any], size: tuple[int, int], found: Checked
) -> None:
    height, width = size
    try:
        masks = read_masks(text, height=height, width=width)
    except BadSample as error:
        found.add("bad_json", str(error))
        return
    runs = masks.runs
    first: dict[str | bytes, int] = {}
    ids: dict[int, int] = {}
    for k, annotation in enumerate(annotations):
        if runs.status[k]:
            found.add("bad_rle", f"annotation {k}: {rle.PROBLEMS[runs.status[k]]}")
            continue
        if not runs.areas[k]:
            found.add("empty_mask", f"annotation {k}")
            continue
        for detail in _geometry_problems(annotation, runs, k):
            found.add(detail[0], f"annotation {k}: {detail[1]}")
        string = as_rle(masks, k, height=height, width=width)["counts"]
        if (twin := first.setdefault(string, k)) != k:
            found.add("repeated_mask", f"annotation {k} is annotation {twin}")
        number = whole(annotation.get("id"))
        if number is not None and (twin := ids.setdefault(number, k)) != k:
            found.add("repeated_mask_id", f"annotations {twin} and {k}: id {number}")
    if not np.any((runs.status == 0) & (runs.areas > 0)):
        found.add("no_mask", f"none of {len(annotations)} masks can be used")


def _geometry_problems(
    annotation: dict[str, Any], runs: rle.Runs, k: int
) -> Iterator[tuple[str, str]]:
    """List (kind, detail) for area and bbox; fields that the schema already refused are left
    alone."""
    area = whole(annotation.get("area"))
    if area is not None and area != runs.areas[k]:
        yield "area", f"area is {area}, the mask has {runs.areas[k]} pixels"
    box = numbers(annotation.get("bbox"), 4)
    if box is None:
        return
    left, top, right, bottom = runs.extents[k].tolist()
    extent = [left, top, right - left, bottom - top]
    if max(abs(a - b) for a, b in zip(box, extent, strict=True)) > 0.5:
        counted = box == [left, top, right - left + 1, bottom - top + 1]
        how = ": w and h count pixels, as COCO's do" if counted else ""
        yield "bbox", f"bbox is {box}, the mask's {extent}{how}"
