"""The format `sa1b`: a JSON in SA-1B's form beside each photo, whatever the photo's format.

Roboflow's "SAM 2" export is of this form. Where all photos are JPEGs, training reads such folders
as shards, without this reader.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sam_train.data.formats.base import Annotations, Format, register
from sam_train.data.formats.coco import photo_size
from sam_train.data.formats.coco_file import as_side
from sam_train.data.formats.foreign_json import read_json
from sam_train.data.formats.ids import as_number
from sam_train.data.formats.json_kinds import first_keys
from sam_train.data.formats.leftovers import files_below
from sam_train.data.formats.parts import some_files
from sam_train.data.formats.records import (
    IMAGE_SUFFIXES,
    Listing,
    MasksRead,
    Record,
    list_images,
    require_folder,
)
from sam_train.data.formats.segmentation import NoSegmentationError, parse_segmentation
from sam_train.data.left_out import SkipImageError
from sam_train.errors import UserError


class _File(msgspec.Struct):
    annotations: list[Any]
    image: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sa1bRecord(Record):
    """A photo with the JSON beside it."""

    file: Path

    def inputs(self) -> list[Path]:
        """Return the JSON."""
        return [self.file]

    def masks(self) -> MasksRead:
        """Read every annotation; a malformed one is counted and left out.

        Raises:
            SkipImageError: the JSON cannot be read, or the photo where its size is needed.
        """
        try:
            content = _content(self.file)
        except UserError as error:
            raise SkipImageError("unreadable JSON", str(error)) from error
        given = content.image if isinstance(content.image, Mapping) else {}
        height, width = as_side(given.get("height")), as_side(given.get("width"))
        # Polygons have no size of their own; without the JSON's, only the photo knows it.
        if height is None or width is None:
            height, width = photo_size(self.image)
        read = MasksRead()
        for number, item in enumerate(content.annotations):
            name = f"{self.file.name}: annotation {number}"
            found = item.get("segmentation") if isinstance(item, Mapping) else None
            try:
                # Encoded again, because the parser takes text: one reader for all of COCO's forms.
                mask = parse_segmentation(msgspec.json.encode(found), height, width)
            except NoSegmentationError:
                read.skip("no segmentation", name)
            except (ValueError, OverflowError) as error:
                read.skip("bad segmentation", f"{name}: {error}")
            else:
                read.add(name, mask, id=as_number(item.get("id")) or 0)
        return read


def _content(file: Path) -> _File:
    """Return a JSON's annotations, also a bare list of them.

    Raises:
        UserError: it is no such file.
    """
    text = read_json(file)
    try:
        return text.decode(_File)
    except msgspec.ValidationError:
        pass
    try:
        return _File(annotations=text.decode(list[Any]))
    except msgspec.ValidationError as error:
        raise UserError(f"{file}: no SA-1B's JSON ({error})") from None


@register
@dataclass(frozen=True, kw_only=True)
class Sa1b(Format):
    """Photos of any format with `NAME.json` beside them, or in a folder of their own."""

    name = "sa1b"
    summary = "photos with SA-1B's JSON beside each (Roboflow's SAM 2 export)"
    image_places = ("images", "")
    annotation_places = ("annotations", "")
    annotations = Annotations(
        flag="--annotations", metavar="DIR", help="the JSONs (default: --images)", required=False
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the photos in the order of their paths."""
        return _listing(images, annotations)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a JSON with annotations and the name of a photo."""
        for file in some_files(annotations, (".json",), most=3):
            keys = first_keys(file)
            inside = images / file.relative_to(annotations)
            if "annotations" in keys and not keys & {"images", "shapes"} and any(_beside(inside)):
                return True
        return False


def _beside(path: Path) -> Iterator[bool]:
    for suffix in IMAGE_SUFFIXES:
        yield path.with_suffix(suffix).is_file() or path.with_suffix(suffix.upper()).is_file()


def _listing(images: Path, annotations: Path) -> Listing:
    require_folder(images, "--images")
    require_folder(annotations, "--annotations")
    listing = Listing(records=[])
    used: set[Path] = set()
    for photo in list_images(images):
        inside = photo.relative_to(images)
        file = annotations / inside.with_suffix(".json")
        if not file.is_file():
            listing.skip("image", "no JSON of its name", inside.as_posix())
        elif file in used:
            listing.skip("image", "duplicate name", inside.as_posix())
        else:
            used.add(file)
            listing.records.append(Sa1bRecord(name=inside.as_posix(), image=photo, file=file))
    for file in files_below(annotations):
        if file.suffix == ".json" and file not in used:
            listing.skip("image", "missing image", file.relative_to(annotations).as_posix())
    return listing
