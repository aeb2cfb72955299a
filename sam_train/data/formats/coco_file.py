"""A COCO or LVIS JSON as it is read everywhere: by conversion, data sets and ground truths.

Only what somebody needs is looked at. A value that cannot be used costs the entry that needs it,
never the file, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sam_train.data.formats.foreign_json import JsonFile, read_json
from sam_train.data.formats.ids import Id, IdIndex, as_id
from sam_train.data.formats.json_kinds import kind_of
from sam_train.data.formats.segmentation import (
    LARGEST_FRACTION,
    SMALLEST_PHOTO,
    is_nothing,
    largest_coordinate,
)
from sam_train.data.left_out import Skip
from sam_train.errors import UserError

Entry = TypeVar("Entry")

_LARGEST_SIDE = 10**6


class _Image(msgspec.Struct):
    id: Any = None
    file_name: Any = None
    coco_url: Any = None
    height: Any = None
    width: Any = None
    neg_category_ids: Any = None
    not_exhaustive_category_ids: Any = None
    # Names in the files of other programs.
    path: Any = None
    filename: Any = None
    name: Any = None
    url: Any = None
    flickr_url: Any = None


class CocoAnnotation(msgspec.Struct):
    """An entry of `annotations` as it stands; the properties say what it means."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    # Kept as text until a worker needs it: a million polygons as python floats fill the memory.
    segmentation: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    bbox: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    area: Any = None
    iscrowd: Any = None

    @property
    def crowd(self) -> bool:
        """True for a region of many objects: 1, true, "1"."""
        # Programs that write CSV first make texts of all numbers.
        if isinstance(self.iscrowd, str):
            return self.iscrowd.strip().lower() in ("1", "1.0", "true", "yes")
        return isinstance(self.iscrowd, int | float) and self.iscrowd == 1

    @property
    def box(self) -> list[float] | None:
        """[x, y, w, h] if those are four numbers."""
        return as_box(self.bbox)

    @property
    def nothing(self) -> str | None:
        """The reason for which it has no mask at all, if it has none."""
        if not is_nothing(bytes(self.segmentation)):
            return None
        return "no segmentation" if self.box is None else "no segmentation, box only"


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoImage:
    """An entry of `images`."""

    id: Id | None
    names: tuple[str, ...]
    """Places of the photo, the likeliest first: file_name, folder and name of its URL."""
    height: int | None = None
    width: int | None = None
    """None where the file does not say: the photo does."""
    neg_category_ids: tuple[Any, ...] | None = None
    """LVIS: categories that are known to be absent."""
    not_exhaustive_category_ids: tuple[Any, ...] | None = None
    """LVIS: categories of which not every instance is marked."""


class CocoCategory(msgspec.Struct):
    """An entry of `categories`."""

    id: Any = None
    name: Any = None
    frequency: Any = None


@dataclass(slots=True, kw_only=True)
class CocoFile:
    """A whole file."""

    path: Path
    images: list[CocoImage]
    annotations: list[list[CocoAnnotation]]
    """The annotations of each image."""
    categories: list[CocoCategory]
    normalised: bool = False
    """Polygons and boxes are fractions of the photos' width and height."""
    skips: list[Skip] = field(default_factory=list)
    """Images and masks that no entry can be found for."""
    notes: list[str] = field(default_factory=list)
    """Sentences for people: what is unusual and was taken all the same."""


class _Whole(msgspec.Struct):
    images: list[_Image]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory] | None = None


class _Entries(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: Any = None


def read_coco(path: Path, *, kind: str = "COCO", file: JsonFile | None = None) -> CocoFile:
    """Read a COCO instances JSON.

    Args:
        kind: of data set, for messages.
        file: its content, where the caller has it already.

    Raises:
        UserError: the file cannot be read, or is no such JSON.
    """
    file = file or read_json(path)
    skips: list[Skip] = []
    try:
        # In one typed pass, many times faster than entry by entry.
        whole = file.decode(_Whole)
    except msgspec.ValidationError:
        whole = _by_entry(file, kind, skips)
    # After reading: captions and keypoints have the same outer form.
    if whole.annotations and (found := kind_of_annotations(whole.annotations, file)):
        raise UserError(f"{path}: not a {kind} instances file: this is {found}")
    result = CocoFile(
        path=path,
        images=[_image(image) for image in whole.images],
        annotations=[[] for _ in whole.images],
        categories=whole.categories or [],
        skips=skips,
        notes=list(file.notes),
    )
    _assign(whole.annotations, result)
    result.normalised = _are_fractions(result)
    if result.normalised:
        result.notes.append(
            f"{path.name} has coordinates from 0 to 1: they are taken as fractions of each "
            "photo's width and height"
        )
    return result


def kind_of_annotations(items: Sequence[CocoAnnotation], file: JsonFile) -> str | None:
    """Name a file whose annotations have no masks by design; None for instances."""
    if any(item.segmentation for item in items):
        return None
    found = kind_of(file.text)
    if found is None and all(item.box is None for item in items):
        return "a file whose annotations have neither `segmentation` nor `bbox`"
    return found


def _by_entry(file: JsonFile, kind: str, skips: list[Skip]) -> _Whole:
    """Read a file in which something is not of the form, entry by entry."""
    try:
        entries = file.decode(_Entries)
    except msgspec.ValidationError as error:
        why = kind_of(file.text)
        why = f"this is {why}" if why else str(error)
        raise UserError(
            f"{file.path}: not a {kind} instances file: {why}; it needs `images` with id and "
            "file_name, and `annotations` with image_id and segmentation"
        ) from None
    categories = entries.categories if isinstance(entries.categories, list) else []
    return _Whole(
        images=_usable(entries.images, _Image, "image", file, skips),
        annotations=_usable(entries.annotations, CocoAnnotation, "mask", file, skips),
        categories=[
            CocoCategory(id=c.get("id"), name=c.get("name"), frequency=c.get("frequency"))
            for c in categories
            if isinstance(c, dict)
        ],
    )


def _usable(
    entries: Iterable[msgspec.Raw],
    form: type[Entry],
    kind: str,
    file: JsonFile,
    skips: list[Skip],
) -> list[Entry]:
    found = []
    for place, raw in enumerate(entries):
        try:
            # Mends numbers beyond all bounds, too.
            found.append(JsonFile(path=file.path, text=bytes(raw)).decode(form))
        except (msgspec.ValidationError, UserError):
            what = "annotations" if kind == "mask" else "images"
            name = f"{file.path.name}: entry {place} of `{what}`"
            skips.append(Skip(kind=kind, reason="unreadable entry", name=name))
    return found


def _image(raw: _Image) -> CocoImage:
    # COCO's own name first; the others are what different tools call it.
    given = [text for text in (raw.file_name, raw.path, raw.filename, raw.name) if _is_text(text)]
    urls = [text for text in (raw.coco_url, raw.url, raw.flickr_url) if _is_text(text)]
    # A name that is a number: some tools write it without quotes.
    if not given and as_id(raw.file_name) is not None:
        given = [str(as_id(raw.file_name))]
    return CocoImage(
        id=as_id(raw.id),
        # One of each at most: every further name is a chance to find the wrong photo.
        names=tuple(dict.fromkeys([*given[:1], *urls[:1]])),
        height=as_side(raw.height),
        width=as_side(raw.width),
        neg_category_ids=_as_tuple(raw.neg_category_ids),
        not_exhaustive_category_ids=_as_tuple(raw.not_exhaustive_category_ids),
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _as_tuple(value: Any) -> tuple[Any, ...] | None:
    return tuple(value) if isinstance(value, list) else None


def as_number_value(value: Any) -> float | None:
    """Return a finite number, also one written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def as_side(value: Any) -> int | None:
    """Return the side of a photo in pixels: 120, 120.0, "120"; None for anything else."""
    found = as_number_value(value)
    whole = found is not None and found.is_integer() and 1 <= found <= _LARGEST_SIDE
    return int(found) if whole and found is not None else None


def as_box(raw: bytes | msgspec.Raw) -> list[float] | None:
    """Return four finite numbers of a JSON text, also numbers as text; None for anything else."""
    if not raw:
        return None
    try:
        values = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(values, list) or len(values) != 4:
        return None
    found = [number for value in values if (number := as_number_value(value)) is not None]
    return found if len(found) == 4 else None


def _assign(annotations: Sequence[CocoAnnotation], result: CocoFile) -> None:
    """Give each image its annotations; count those that belong to none, or to several."""
    index = IdIndex(image.id for image in result.images)
    # Entries of one id that say the same are one photo; others cannot be told apart.
    twice = _same_photo(result, index)
    first_of: dict[Id, int] = {}
    for place, item in enumerate(annotations):
        places = index.find(item.image_id)
        if len(places) != 1 and not (places and twice.get(places[0], False)):
            name = f"{result.path.name}: annotation {annotation_name(item, place)}"
            reason = "several images have its image_id" if places else "unknown image_id"
            _skip(result, "mask", reason, f"{name}: image {item.image_id}")
            continue
        own = as_id(item.id)
        # An id alone is not enough: some programs count anew in each photo.
        first = place if own is None else first_of.setdefault(own, place)
        if first != place and _are_same(item, annotations[first]):
            name = f"{result.path.name}: annotation {annotation_name(item, place)}"
            _skip(result, "mask", "listed twice", name)
            continue
        result.annotations[places[0]].append(item)
    # `same` is a bool and counts as 0 or 1: of equal entries the first stays, of others none.
    gone = {p for k, same in twice.items() for p in index.find(result.images[k].id)[same:]}
    kept = [place for place in range(len(result.images)) if place not in gone]
    result.images = [result.images[place] for place in kept]
    result.annotations = [result.annotations[place] for place in kept]


def _are_same(one: CocoAnnotation, other: CocoAnnotation) -> bool:
    return (one.image_id, one.category_id, bytes(one.segmentation)) == (
        other.image_id,
        other.category_id,
        bytes(other.segmentation),
    )


def _same_photo(result: CocoFile, index: IdIndex) -> dict[int, bool]:
    """Return of each first image of an id that several have whether all are the same photo."""
    found = {}
    for own, places in index.exact.items():
        if len(places) < 2:
            continue
        # What else an entry says (licence, date) does not make it another photo.
        entries = {(i.names, i.height, i.width) for i in (result.images[p] for p in places)}
        found[places[0]] = len(entries) == 1
        for place in places[len(entries) == 1 :]:
            image = result.images[place]
            reason = "listed twice" if len(entries) == 1 else "several images have its id"
            name = image.names[0] if image.names else f"image {own}"
            _skip(result, "image", reason, f"{name}: image {own}")
    return found


def _skip(result: CocoFile, kind: str, reason: str, name: str) -> None:
    result.skips.append(Skip(kind=kind, reason=reason, name=name))


def annotation_name(item: CocoAnnotation, place: int) -> str:
    """Return an annotation's id, or its place in the list where it has none."""
    own = as_id(item.id)
    return f"at place {place}" if own is None else str(own)


def _are_fractions(result: CocoFile) -> bool:
    """Tell whether every polygon of the file lies within 0 and 1, in photos of more pixels."""
    found = False
    for image, items in zip(result.images, result.annotations, strict=True):
        # In a photo of a few pixels, coordinates below 1 may really be pixels.
        if max(image.height or 0, image.width or 0, 0) in range(1, SMALLEST_PHOTO):
            continue
        for item in items:
            largest = largest_coordinate(bytes(item.segmentation))
            if largest is None:
                continue
            # The first polygon in pixels decides: real files are not read further.
            if largest > LARGEST_FRACTION:
                return False
            found = True
    return found
