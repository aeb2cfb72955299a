"""The format `coco`: instance annotations in one JSON with `images` and `annotations`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from sam_train.data.formats.base import Annotations, Format, option, register, usual_paths
from sam_train.data.formats.coco_file import CocoAnnotation, CocoFile, CocoImage, read_coco
from sam_train.data.formats.ids import as_id, as_number
from sam_train.data.formats.json_kinds import first_keys
from sam_train.data.formats.parts import Part, part_in
from sam_train.data.formats.photo_names import FoundPhoto, find_photos, rename_note
from sam_train.data.formats.records import (
    Listing,
    MasksRead,
    Record,
    refuse_missing,
    require_file,
    require_folder,
)
from sam_train.data.formats.segmentation import parse_segmentation
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import open_pillow
from sam_train.errors import UserError

_LARGEST_ID = 2**63 - 1
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF's orientations that exchange width and height."""
LEFT_OUT = "its image was left out"
_NO_INSTANCES = re.compile(
    r"keypoint|caption|panoptic|stuff|image_info|unlabeled|lvis|results?\b", re.I
)
"""Names of COCO's files that have no instances, or are another format's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoMask:
    """An annotation on its way to a worker."""

    id: int
    """Number in the shards."""
    label: str
    """Id in the file, for messages."""
    segmentation: bytes
    """The JSON text of it."""
    height: int | None
    """The photo's height as the annotation's entry of `images` gives it; None where it does not."""
    width: int | None
    """The photo's width, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoRecord(Record):
    """A photo of a COCO file, with the masks of all entries that name it."""

    annotations: tuple[CocoMask, ...]
    normalised: bool = False
    """Coordinates are fractions of width and height."""
    missing: str | None = None
    """None if the photo is there; else the files that it could be."""

    def masks(self) -> MasksRead:
        """Decode this photo's annotations; a malformed one is counted and left out.

        Raises:
            SkipImageError: the photo is missing, or unreadable where its size is needed.
        """
        refuse_missing(self.image, self.missing)
        read = MasksRead()
        of_photo: tuple[int, int] | None = None
        for annotation in self.annotations:
            name = f"{self.name}: annotation {annotation.label}"
            height, width = annotation.height, annotation.width
            if height is None or width is None:
                # Asked once for a photo, and only if its masks need it.
                height, width = of_photo = of_photo or photo_size(self.image)
            try:
                mask = parse_segmentation(
                    annotation.segmentation, height, width, normalised=self.normalised
                )
            # One bad polygon costs itself alone, and is counted.
            except (ValueError, OverflowError) as error:
                read.skip("bad segmentation", f"{name}: {error}")
                continue
            read.add(name, mask, id=annotation.id)
        return read

    def known(self) -> list[str]:
        """Return a name for every annotation."""
        return [f"{self.name}: annotation {annotation.id}" for annotation in self.annotations]


def photo_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of a photo held upright, from its header.

    Raises:
        SkipImageError: it cannot be read.
    """
    if not path.is_file():
        raise SkipImageError("missing image", str(path))
    try:
        with open_pillow(path) as image:
            # Masks lie on the photo as people saw it, which is how it is converted, too.
            turned = image.getexif().get(0x0112) in _SIDEWAYS
            return image.size if turned else (image.height, image.width)
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise SkipImageError("unreadable image", f"{path}: {error}") from error


@register
@dataclass(frozen=True, kw_only=True)
class Coco(Format):
    """COCO's instances. Entries that name the same photo are one photo with the masks of all."""

    name = "coco"
    summary = "a COCO instances JSON and its photos"
    image_places: ClassVar[tuple[str, ...]] = ("images/val2017", "images", "val2017", "")
    annotation_places: ClassVar[tuple[str, ...]] = (
        "_annotations.coco.json",
        "annotations/instances_val2017.json",
        "instances*.json",
        "annotations/instances*.json",
        "*.json",
        "annotations/*.json",
    )
    annotations = Annotations(flag="--annotations", metavar="JSON")

    crowds: bool = option(
        False,
        help="regions of many objects (iscrowd=1) are masks, too (default: left out and counted)",
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the JSON in the order of its `images`."""
        return list_instances(images, annotations, kind="COCO", crowds=self.crowds)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for the two lists of an instances file."""
        return {"images", "annotations"} <= first_keys(annotations)

    def find_parts(self, path: Path) -> Sequence[Part]:
        """Find folders of parts, as Roboflow exports them, or JSONs named as parts, as COCO's."""
        return super().find_parts(path) or list(self._named(path))

    def _named(self, path: Path) -> Iterator[Part]:
        seen: set[str] = set()
        files = [f for place in ("", "annotations") for f in sorted((path / place).glob("*.json"))]
        # COCO's own names first: other files beside them say other things of the same photos.
        for file in sorted(files, key=lambda file: not file.name.startswith("instances")):
            named = part_in(file.stem) if self._has_instances(file) else None
            if named is None or named[0] in seen:
                continue
            images = self._photos_of(path, *named)
            if images is not None and self.fits(images, file):
                seen.add(named[0])
                yield Part(name=named[0], images=images, annotations=file)

    def _has_instances(self, file: Path) -> bool:
        return not _NO_INSTANCES.search(file.stem)

    def _photos_of(self, path: Path, part: str, word: str) -> Path | None:
        """Return the photos of the JSON that has this word in its name."""
        places = (f"images/{word}", word, f"images/{part}", part)
        named = next((path / place for place in places if (path / place).is_dir()), None)
        return named or usual_paths(type(self), path)[0]


def list_instances(
    images: Path,
    annotations: Path,
    *,
    kind: str,
    crowds: bool = False,
    order: Callable[[CocoImage], tuple[str, ...]] = lambda image: image.names,
) -> Listing:
    """List a COCO or LVIS file.

    Args:
        kind: of data set, for messages.
        crowds: whether regions of many objects (iscrowd=1) are masks, too.
        order: the names under which an image's photo is looked for, the likeliest first.

    Raises:
        UserError: a path is missing, or the file is not of this form.
    """
    require_folder(images, "--images")
    require_file(annotations, "--annotations")
    coco = read_coco(annotations, kind=kind)
    if coco.images and not any(image.names for image in coco.images):
        raise UserError(f"{annotations}: its images have neither file_name nor coco_url")
    names = [order(image) for image in coco.images]
    found = find_photos(images, names)
    listing = Listing(records=[], inputs=[annotations], keeps_ids=True)
    listing.skips += coco.skips
    listing.notes += [*coco.notes, *rename_note(found, names)]
    photos = _photos(coco, found, listing)
    numbers = _numbers(coco, listing)
    for photo, places in photos.values():
        masks = _masks(coco, places, numbers, listing, crowds=crowds)
        if photo.missing is not None:
            for mask in masks:
                listing.skip("mask", LEFT_OUT, f"{annotations.name}: annotation {mask.label}")
            masks = []
        listing.records.append(
            CocoRecord(
                name=photo.name,
                image=photo.path,
                annotations=tuple(masks),
                normalised=coco.normalised,
                missing=photo.missing,
            )
        )
    return listing


def _photos(
    coco: CocoFile, found: list[FoundPhoto], listing: Listing
) -> dict[str, tuple[FoundPhoto, list[int]]]:
    """Return each photo with the places of the entries that name it, by its path."""
    photos: dict[str, tuple[FoundPhoto, list[int]]] = {}
    again: list[str] = []
    for place, photo in enumerate(found):
        image = coco.images[place]
        if not image.names:
            listing.skip("image", "no file_name", f"{coco.path.name}: image {image.id}")
            for item in coco.annotations[place]:
                name = f"{coco.path.name}: annotation {item.id}"
                listing.skip("mask", LEFT_OUT, name)
            continue
        # `a/../b.jpg` and `b.jpg` are one photo.
        key = os.path.normpath(photo.path)
        if key in photos:
            again.append(photo.name)
        photos.setdefault(key, (photo, []))[1].append(place)
    if again:
        listing.notes.append(
            f"{len(again):,} of {len(coco.images):,} entries of `images` name a photo that stands "
            f"there already, as {again[0]}: it is one photo with the masks of all"
        )
    return photos


def _masks(
    coco: CocoFile,
    places: list[int],
    numbers: dict[int, int],
    listing: Listing,
    *,
    crowds: bool,
) -> list[CocoMask]:
    """Return the masks of one photo, from all entries that name it."""
    masks: list[CocoMask] = []
    seen: dict[bytes, int] = {}
    for place in places:
        image = coco.images[place]
        for item in coco.annotations[place]:
            label, text = _label(item, numbers), bytes(item.segmentation)
            # A crowd is many objects in one mask, which no single click can mean.
            reason = "crowd" if item.crowd and not crowds else item.nothing
            # Some programs repeat all masks of a photo under each of its entries.
            if reason is None and len(places) > 1 and seen.setdefault(text, place) != place:
                reason = "listed twice"
            if reason is not None:
                listing.skip("mask", reason, f"{coco.path.name}: annotation {label}")
                continue
            masks.append(
                CocoMask(
                    id=numbers[id(item)],
                    label=label,
                    segmentation=text,
                    height=image.height,
                    width=image.width,
                )
            )
    return masks


def _label(item: CocoAnnotation, numbers: dict[int, int]) -> str:
    own = as_id(item.id)
    return str(numbers[id(item)]) if own is None else str(own)


def _numbers(coco: CocoFile, listing: Listing) -> dict[int, int]:
    """Return a number for each annotation: its id where that is one that no other has.

    By the object's `id()`: annotations without an id have nothing else.
    """
    items = [item for own in coco.annotations for item in own]
    given: list[int | None] = []
    used: Counter[int] = Counter()
    for item in items:
        number = as_number(item.id)
        # Ids are int64 in the shards, and each may stand once.
        usable = number is not None and abs(number) <= _LARGEST_ID and not used[number]
        given.append(number if usable else None)
        if usable and number is not None:
            used[number] += 1
    # Above all given ids, so that new ones meet none of them.
    free = max(used, default=0) + 1
    # An id near the limit leaves no room above it, so all are numbered anew.
    if free + len(items) > _LARGEST_ID:
        given, free = [None] * len(items), 1
    numbers = {}
    first, changed = free, 0
    for item, number in zip(items, given, strict=True):
        numbers[id(item)] = free if number is None else number
        if number is None:
            free, changed = free + 1, changed + 1
    if changed:
        listing.notes.append(
            f"{changed:,} of {len(items):,} annotations have no id, one that is no number, or one "
            f"that another has, too: they are numbered from {first} on"
        )
    return numbers
