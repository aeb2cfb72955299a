"""The format `labelme`: a LabelMe JSON per photo, with polygons, boxes, circles and masks."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.coco import photo_size
from sam_train.data.formats.coco_file import as_number_value, as_side
from sam_train.data.formats.foreign import describe
from sam_train.data.formats.foreign_json import read_json
from sam_train.data.formats.json_kinds import first_keys
from sam_train.data.formats.leftovers import files_below
from sam_train.data.formats.outlines import (
    box_outline,
    ellipse_outline,
    outline_mask,
    picture_mask,
)
from sam_train.data.formats.parts import some_files
from sam_train.data.formats.photo_names import find_photos, rename_note
from sam_train.data.formats.records import (
    IMAGE_SUFFIXES,
    Listing,
    MasksRead,
    Record,
    is_file,
    refuse_missing,
    require_folder,
)
from sam_train.data.left_out import SkipImageError
from sam_train.errors import UserError
from sam_train.masks.runs import Segmentation, check_size, union_rle

_FLAT = frozenset({"line", "linestrip", "point", "points"})


class _Shape(msgspec.Struct):
    label: Any = None
    points: Any = None
    group_id: Any = None
    shape_type: Any = None
    mask: Any = None


class _File(msgspec.Struct):
    shapes: list[msgspec.Raw]
    imagePath: Any = None  # noqa: N815 - LabelMe's own name
    # Raw: a whole photo in base64, which a listing has no use for.
    imageData: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)  # noqa: N815
    imageHeight: Any = None  # noqa: N815
    imageWidth: Any = None  # noqa: N815


class _Data(msgspec.Struct):
    imageData: str | None = None  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelmeRecord(Record):
    """A photo with the shapes of its JSON."""

    file: Path
    shapes: tuple[bytes, ...]
    """The JSON text of each."""
    height: int | None
    width: int | None
    """The photo's size as the JSON gives it; None where it does not."""
    inside: bool = False
    """The photo lies in the JSON, because no file has it."""
    missing: str | None = None
    """None if the photo is there; else the files that it could be."""
    boxes: bool = True

    def inputs(self) -> list[Path]:
        """Return the JSON."""
        return [self.file]

    def known(self) -> list[str]:
        """Return a name for every shape."""
        return [f"{self.file.name}: shape {n}" for n in range(1, len(self.shapes) + 1)]

    def embedded(self) -> bytes | None:
        """Return the photo that LabelMe keeps in the JSON."""
        if not self.inside:
            return None
        try:
            data = read_json(self.file).decode(_Data).imageData
            return base64.b64decode(data or "", validate=True)
        except (UserError, msgspec.ValidationError, binascii.Error) as error:
            raise SkipImageError("unreadable image", f"{self.file}: {error}") from error

    def masks(self) -> MasksRead:
        """Read the shapes; those of one label and group are one object.

        Raises:
            SkipImageError: the photo is missing, or unreadable where its size is needed.
        """
        refuse_missing(self.image, self.missing)
        height, width = self.height, self.width
        if height is None or width is None:
            with self.photo() as path:
                height, width = photo_size(path)
        read = MasksRead()
        groups: dict[tuple[Any, ...], list[tuple[str, Segmentation]]] = {}
        for number, text in enumerate(self.shapes, start=1):
            name = f"{self.file.name}: shape {number}"
            try:
                shape = msgspec.json.decode(text, type=_Shape)
                if why := self._why_none(shape):
                    read.skip(why, name)
                    continue
                mask = _mask(shape, height, width)
            # One bad shape costs itself alone, and is counted.
            except (ValueError, OverflowError, TypeError) as error:
                read.skip("bad shape", f"{name}: {error}")
                continue
            alone = shape.group_id is None
            key = (number,) if alone else (repr(shape.label), repr(shape.group_id))
            groups.setdefault(key, []).append((name, mask))
        for parts in groups.values():
            masks = [mask for _, mask in parts]
            read.add(parts[0][0], masks[0] if len(masks) == 1 else union_rle(masks))
        return read

    def _why_none(self, shape: _Shape) -> str | None:
        if shape.shape_type in _FLAT:
            return "point or line, which has no area"
        if shape.shape_type == "rectangle" and not self.boxes:
            return "box"
        return None


def _mask(shape: _Shape, height: int, width: int) -> Segmentation:
    """Return the mask of a shape; raise a ValueError where it is none."""
    kind = shape.shape_type or "polygon"
    points = _points(shape.points)
    if kind == "mask":
        return _picture(shape.mask, points, height, width)
    if kind == "circle":
        if len(points) != 2:
            raise ValueError("a circle needs its centre and a point on it")
        (x, y), (on_x, on_y) = points
        radius = math.hypot(on_x - x, on_y - y)
        return outline_mask(ellipse_outline(x, y, radius, radius), height, width)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        return outline_mask(box_outline(left, top, right, bottom), height, width)
    # Turned boxes have four corners, as a polygon has.
    if kind not in ("polygon", "rectangle", "oriented_rectangle"):
        raise ValueError(f"a shape of the kind {str(kind)[:30]!r} is not known")
    return outline_mask([value for point in points for value in point], height, width)


def _points(points: Any) -> list[tuple[float, float]]:
    found = []
    for point in points if isinstance(points, list) else []:
        values = [as_number_value(v) for v in point] if isinstance(point, list) else []
        if len(values) != 2 or values[0] is None or values[1] is None:
            raise ValueError("a point is not two numbers")
        found.append((values[0], values[1]))
    return found


def _picture(
    data: Any, points: Sequence[tuple[float, float]], height: int, width: int
) -> Segmentation:
    """Place the PNG of a mask where its box says."""
    if not isinstance(data, str) or not points:
        raise ValueError("a mask needs its picture and its box")
    try:
        content = base64.b64decode(data, validate=True)
        with Image.open(io.BytesIO(content)) as image:
            # The size is checked before the pixels take memory.
            check_size(height=image.height, width=image.width)
            pixels = np.asarray(image.convert("L")) > 0
    # A damaged PNG makes Pillow raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise ValueError(f"its picture cannot be read ({error})") from None
    left, top = (round(min(axis)) for axis in zip(*points, strict=True))
    return picture_mask(pixels, left=left, top=top, height=height, width=width)


@register
@dataclass(frozen=True, kw_only=True)
class Labelme(Format):
    """LabelMe's JSONs beside the photos or in a folder of their own.

    A photo that is not there is taken from the JSON, where LabelMe has put it by default.
    """

    name = "labelme"
    summary = "photos and a LabelMe JSON for each"
    image_places = ("images", "img", "")
    annotation_places = ("annotations", "labels", "json", "ann", "")
    annotations = Annotations(
        flag="--annotations", metavar="DIR", help="the JSONs (default: --images)", required=False
    )

    boxes: bool = option(True, help="leave out rectangles, which are masks by default")

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the JSONs in the order of their paths."""
        return _listing(images, annotations, boxes=self.boxes)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a JSON of LabelMe's among the first few."""
        return any(
            {"shapes", "imagePath"} <= first_keys(path)
            for path in some_files(annotations, (".json",), most=3)
        )


def _listing(images: Path, annotations: Path, *, boxes: bool) -> Listing:
    require_folder(images, "--images")
    require_folder(annotations, "--annotations")
    listing = Listing(records=[])
    files = list(_files(annotations, listing))
    names = [_names(file, content, images) for file, content in files]
    photos = find_photos(images, names)
    listing.notes += rename_note(photos, names)
    seen: dict[Path, Path] = {}
    for (file, content), photo in zip(files, photos, strict=True):
        here = file.relative_to(annotations).as_posix()
        inside = photo.missing is not None and len(content.imageData) > len('""null')
        path = file if inside else photo.path
        # Two JSONs of one photo are a copy more often than two halves.
        if (first := seen.setdefault(path, file)) != file:
            listing.skip("image", "another JSON has its photo", f"{here}: as {first.name}")
            continue
        if not content.shapes:
            listing.skip("image", "no shape", here)
            continue
        listing.records.append(
            LabelmeRecord(
                name=here if inside else photo.name,
                image=path,
                file=file,
                shapes=tuple(bytes(shape) for shape in content.shapes),
                height=as_side(content.imageHeight),
                width=as_side(content.imageWidth),
                inside=inside,
                missing=None if inside else photo.missing,
                boxes=boxes,
            )
        )
    return listing


def _files(folder: Path, listing: Listing) -> Iterator[tuple[Path, _File]]:
    """Yield every JSON of LabelMe's below a folder; count those that cannot be read."""
    for path in files_below(folder):
        if path.suffix.lower() != ".json":
            continue
        name = path.relative_to(folder).as_posix()
        try:
            file = read_json(path)
            content = file.decode(_File)
        except msgspec.ValidationError:
            listing.skip("file", describe(path), name)
        except UserError as error:
            listing.skip("image", "unreadable JSON", str(error))
        else:
            listing.notes += file.notes
            yield path, content


def _names(file: Path, content: _File, images: Path) -> list[str]:
    """Return the names that a JSON's photo may have below the photos' folder."""
    given = content.imagePath if isinstance(content.imagePath, str) else ""
    plain = given.replace("\\", "/").strip()
    names = []
    # LabelMe's paths begin at the JSON's folder, not at that of the photos.
    if plain and is_file(photo := file.parent / plain):
        names.append(_below(photo, images))
    beside = [file.with_suffix(suffix) for suffix in sorted(IMAGE_SUFFIXES)]
    names += [_below(photo, images) for photo in beside if photo.is_file()]
    return list(dict.fromkeys([*names, *([given] if plain else [file.stem])]))


def _below(photo: Path, images: Path) -> str:
    real, root = photo.resolve(), images.resolve()
    return real.relative_to(root).as_posix() if real.is_relative_to(root) else str(real)
