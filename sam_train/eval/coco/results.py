"""Results of any program in COCO's form: a list of {image_id, category_id, score, bbox or mask}."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sam_train.data.formats.coco_file import as_box, as_number_value
from sam_train.data.formats.foreign_json import JsonFile, as_json
from sam_train.data.formats.ids import as_id
from sam_train.data.formats.json_kinds import kind_of
from sam_train.data.formats.segmentation import (
    LARGEST_FRACTION,
    largest_coordinate,
    parse_segmentation,
)
from sam_train.errors import UserError
from sam_train.eval.coco.truth import ImageId, Truth, TruthImage
from sam_train.types import RLE

Box = tuple[float, float, float, float]


class Detection(msgspec.Struct, kw_only=True):
    """An entry of the list; other fields are ignored."""

    image_id: Any = None
    """The image's id, in the ground truth's form once `read_results` has found the image."""
    category_id: Any = None
    """The category's id, in the ground truth's form once `read_results` has found it."""
    score: Any = None
    # Kept as text until it is needed, like the mask.
    bbox: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    segmentation: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    predicted_iou: Any = None
    stability_score: Any = None
    normalised: bool = False
    """Coordinates are fractions of width and height; `read_results` fills it in."""

    def rank(self) -> float | None:
        """Return `score`, else the mean of predicted IoU and stability (paper D.3)."""
        if (score := as_number_value(self.score)) is not None:
            return score
        sure, stable = (as_number_value(v) for v in (self.predicted_iou, self.stability_score))
        return None if sure is None or stable is None else (sure + stable) / 2

    def box(self, image: TruthImage) -> Box | None:
        """Return x0 y0 x1 y1 within the image; None if nothing of it lies there."""
        found = as_box(self.bbox)
        if found is None:
            return None
        x, y, w, h = found
        if self.normalised:
            x, y, w, h = x * image.width, y * image.height, w * image.width, h * image.height
        # Detectors' boxes reach beyond the photo, where no pixel of a mask can be.
        x0, x1 = max(x, 0.0), min(x + w, float(image.width))
        y0, y1 = max(y, 0.0), min(y + h, float(image.height))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def mask(self, image: TruthImage) -> RLE | None:
        """Read the mask of the image's size; return None if it cannot be read or is of another."""
        try:
            found = parse_segmentation(
                bytes(self.segmentation), image.height, image.width, normalised=self.normalised
            )
        except (ValueError, OverflowError):
            return None
        if tuple(found["size"]) != (image.height, image.width):
            return None
        return RLE(size=found["size"], counts=found["counts"])


class _Annotated(msgspec.Struct):
    """A COCO file with the results as annotations, which programs that propose masks write."""

    annotations: list[Detection]


class _AnnotatedRaw(msgspec.Struct):
    annotations: list[msgspec.Raw]


@dataclass(slots=True, kw_only=True)
class Results:
    """A file of results, as far as it fits a ground truth."""

    path: Path
    digest: str
    by_image: dict[ImageId, list[Detection]]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Sentences for people about oddities of the file that were accepted."""

    def of(self, image: TruthImage) -> Sequence[Detection]:
        """Return the results of an image in the file's order."""
        return self.by_image.get(image.id, [])


def read_results(path: Path, truth: Truth, *, option: str, categories: bool) -> Results:
    """Read results for the images of `truth`.

    Results of images or categories that the ground truth does not have are left out and counted.

    Args:
        option: the setting that named the file, for messages.
        categories: each result must have a category.

    Raises:
        UserError: the file cannot be read, has no scores, or nothing of it fits.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{option}={path} cannot be read ({error.strerror})") from None
    file = as_json(path, content)
    items, left_out = _items(file, option)
    _check(items, file, option=f"{option}={path}", categories=categories)
    results = Results(
        path=path,
        digest=hashlib.blake2b(content, digest_size=8).hexdigest(),
        by_image={},
        left_out=left_out,
        notes=list(file.notes),
    )
    fractions = _are_fractions(items)
    if fractions:
        results.notes.append(
            f"{path.name} has coordinates from 0 to 1: they are taken as fractions of each "
            "photo's width and height"
        )
    by_image: dict[ImageId, list[Detection]] = defaultdict(list)
    # Files about one category often leave it out.
    only = next(iter(truth.categories)) if len(truth.categories) == 1 else None
    for item in items:
        image, category = truth.image(item.image_id), truth.category(item.category_id)
        if item.category_id is None and not categories:
            category = only
        if image is None:
            left_out["result: of an image that the ground truth does not have"] += 1
        elif categories and category is None:
            left_out["result: category absent from the ground truth"] += 1
        elif item.rank() is None:
            left_out["result: no score"] += 1
        else:
            item.image_id, item.normalised = image.id, fractions
            item.category_id = as_id(item.category_id) if category is None else category
            by_image[image.id].append(item)
    if items and not by_image:
        (reason, _) = results.left_out.most_common(1)[0]
        first = items[0]
        raise UserError(
            f"{option}={path} does not belong to {truth.path}: all {len(items)} results are left "
            f"out ({reason.removeprefix('result: ')}; the first has image_id {first.image_id}, "
            f"category_id {first.category_id})"
        )
    results.by_image = dict(by_image)
    return results


def _items(file: JsonFile, option: str) -> tuple[list[Detection], Counter[str]]:
    """Return the entries of a file of results, and a count of those that cannot be read."""
    left_out = Counter[str]()
    # The whole file at once; entry by entry, which is slow, only where one is odd.
    try:
        if file.text.lstrip()[:1] == b"[":
            return file.decode(list[Detection]), left_out
        return file.decode(_Annotated).annotations, left_out
    except msgspec.ValidationError as error:
        raw = _raw_items(file)
        if raw is None:
            raise UserError(_not_results(f"{option}={file.path}", file, str(error))) from None
        items = []
        for one in raw:
            try:
                items.append(JsonFile(path=file.path, text=bytes(one)).decode(Detection))
            except (msgspec.ValidationError, UserError):
                left_out["result: unreadable entry"] += 1
        return items, left_out


def _not_results(option: str, file: JsonFile, why: str) -> str:
    kind = kind_of(file.text)
    return (
        f"{option} is not COCO's results format ({why if kind is None else f'this is {kind}'}): it "
        "needs a list of objects with image_id, category_id, score, and bbox or segmentation"
    )


def _raw_items(file: JsonFile) -> list[msgspec.Raw] | None:
    try:
        if file.text.lstrip()[:1] == b"[":
            items = file.decode(list[msgspec.Raw])
        else:
            items = file.decode(_AnnotatedRaw).annotations
    except msgspec.ValidationError:
        return None
    # A list of something else altogether is another file, not one with odd entries.
    return items if any(bytes(one)[:1] == b"{" for one in items) else None


def _check(items: Sequence[Detection], file: JsonFile, *, option: str, categories: bool) -> None:
    """Refuse a file in which all results lack a required field."""
    if not items:
        return
    if all(item.image_id is None for item in items):
        raise UserError(_not_results(option, file, "no result has an image_id"))
    if all(item.rank() is None for item in items):
        raise UserError(f"{option}: no result has a score")
    if categories and all(as_id(item.category_id) is None for item in items):
        raise UserError(f"{option}: no result has a category_id")


def _are_fractions(items: Sequence[Detection]) -> bool:
    """Tell whether all boxes and polygons lie within 0 and 1."""
    found = False
    for item in items:
        box = as_box(item.bbox)
        largest = [max(box)] if box else []
        if (corner := largest_coordinate(bytes(item.segmentation))) is not None:
            largest.append(corner)
        # The first coordinate in pixels decides; a small object may have others below 1.
        if any(value > LARGEST_FRACTION for value in largest):
            return False
        found = found or any(value > 0 for value in largest)
    return found
