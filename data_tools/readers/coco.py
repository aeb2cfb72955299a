"""COCO instance annotations: one JSON with `images` and `annotations`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from data_tools.readers.records import Listing, MasksRead, Record, require_file, require_folder
from data_tools.readers.runs import check_size, checked_rle, polygons_rle
from data_tools.sa1b_format import Segmentation
from sam_train.errors import UserError


class CocoImage(msgspec.Struct):
    """An entry of `images`; other fields are ignored."""

    id: int | str
    file_name: str
    height: int
    width: int


class CocoAnnotation(msgspec.Struct):
    """An entry of `annotations`; other fields are ignored."""

    id: int
    image_id: int | str
    # Kept as text until a worker needs it: a million polygons as python floats fill the memory.
    segmentation: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    iscrowd: int | bool = 0


class CocoFile(msgspec.Struct):
    """The whole JSON."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]


File = TypeVar("File")


class CocoRle(msgspec.Struct):
    """A segmentation that is not a list of polygons."""

    size: list[int]
    counts: str | list[int]


@dataclass(frozen=True, slots=True)
class CocoMask:
    """One annotation on its way to a worker."""

    id: int
    segmentation: bytes
    """Its JSON text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoRecord(Record):
    """An image of a COCO file."""

    height: int
    width: int
    annotations: tuple[CocoMask, ...]

    def masks(self) -> MasksRead:
        """Decode this image's annotations; a malformed one is counted and left out."""
        read = MasksRead()
        for annotation in self.annotations:
            name = f"{self.name}: annotation {annotation.id}"
            try:
                mask = parse_segmentation(annotation.segmentation, self.height, self.width)
            except (ValueError, OverflowError) as error:
                read.skip("bad segmentation", f"{name}: {error}")
                continue
            read.add(name, mask, id=annotation.id)
        return read

    def known(self) -> list[str]:
        """Return a name for every annotation."""
        return [f"{self.name}: annotation {annotation.id}" for annotation in self.annotations]


def parse_segmentation(text: bytes, height: int, width: int) -> Segmentation:
    """A COCO `segmentation`: polygons, plain runs, or compressed runs.

    Raises:
        ValueError: it is none of these, or does not fit the image. (msgspec's errors are such.)
    """
    if not text:
        raise ValueError("it has none")
    check_size(height=height, width=width)
    found = msgspec.json.decode(text, type=list[list[float]] | CocoRle | None)
    if isinstance(found, CocoRle):
        return checked_rle(found.size, found.counts)
    # Fewer than three corners enclose nothing, and pycocotools takes four numbers for a box.
    polygons = [polygon for polygon in found or [] if len(polygon) >= 6]
    if not polygons:
        raise ValueError("it has no polygon of three corners")
    limit = 2 * max(height, width)
    for polygon in polygons:
        if len(polygon) % 2:
            raise ValueError("a polygon has an odd number of coordinates")
        # pycocotools takes memory by the length of a polygon's outline, wherever it lies.
        if np.abs(polygon).max() > limit:
            raise ValueError("a polygon lies far outside the image")
    return polygons_rle(polygons, height=height, width=width)


def list_coco(images: Path, annotations: Path) -> Listing:
    """List a COCO JSON in the order of its `images`.

    Crowd regions (iscrowd=1) are left out, because they are no single object, and counted.

    Raises:
        UserError: a path is missing, or the file is not what COCO's format says.
    """
    fields = "id, file_name, height, width"
    coco = read_instances(images, annotations, CocoFile, kind="COCO", image_fields=fields)
    return list_instances(coco, images, annotations)


def read_instances(
    images: Path, annotations: Path, form: type[File], *, kind: str, image_fields: str
) -> File:
    """The JSON of `--annotations`, for photos below `--images`.

    Args:
        form: what it must hold.
        kind: of data set, and
        image_fields: what an image must have, for messages.

    Raises:
        UserError: a path is missing, or the file is not of this form.
    """
    require_folder(images, "--images")
    require_file(annotations, "--annotations")
    try:
        return msgspec.json.decode(annotations.read_bytes(), type=form)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{annotations}: not a {kind} instances file ({error}); it needs `images` with "
            f"{image_fields} and `annotations` with id, image_id, segmentation"
        ) from error


def list_instances(coco: CocoFile, images: Path, annotations: Path) -> Listing:
    """List a file that has been read; see `list_coco`.

    Raises:
        UserError: two images have the same id.
    """
    listing = Listing(records=[], inputs=[annotations], keeps_ids=True)
    masks: dict[int | str, list[CocoMask]] = {}
    for image in coco.images:
        if image.id in masks:
            raise UserError(f"{annotations}: two images have the id {image.id}; make them unique")
        masks[image.id] = []
    for item in coco.annotations:
        name = f"{annotations.name}: annotation {item.id}"
        if item.image_id not in masks:
            listing.skip("mask", "unknown image_id", f"{name}: image {item.image_id}")
        elif item.iscrowd:
            listing.skip("mask", "crowd", name)
        else:
            masks[item.image_id].append(CocoMask(item.id, bytes(item.segmentation)))
    names: set[str] = set()
    for image in coco.images:
        if image.file_name in names:
            listing.skip("image", "duplicate name", f"{image.file_name}: image {image.id}")
            continue
        names.add(image.file_name)
        listing.records.append(
            CocoRecord(
                name=image.file_name,
                image=images / image.file_name,
                height=image.height,
                width=image.width,
                annotations=tuple(masks[image.id]),
            )
        )
    return listing
