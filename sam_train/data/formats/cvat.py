"""The format `cvat`: CVAT's XML for images (1.1), with polygons, masks, boxes and ellipses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.coco import photo_size
from sam_train.data.formats.coco_file import as_number_value, as_side
from sam_train.data.formats.outlines import (
    box_outline,
    ellipse_outline,
    outline_mask,
    picture_mask,
    region_of_runs,
)
from sam_train.data.formats.photo_names import find_photos, rename_note
from sam_train.data.formats.records import (
    Listing,
    MasksRead,
    Record,
    refuse_missing,
    require_file,
    require_folder,
)
from sam_train.errors import UserError
from sam_train.masks.runs import Segmentation, union_rle

_SHAPES = frozenset({"polygon", "mask", "box", "ellipse"})
_FLAT = frozenset({"polyline", "points", "cuboid", "skeleton"})
_START = 1 << 16
"""Bytes in which an XML names its root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CvatShape:
    """A shape as it stands in the XML."""

    kind: str
    fields: Mapping[str, str]

    @property
    def group(self) -> str | None:
        """The number of the object that it is a part of, where it has one."""
        group = self.fields.get("group_id", "0")
        return None if group in ("", "0") else group

    def number(self, name: str, *, default: float | None = None) -> float:
        """Return a finite number; raise a ValueError where there is none."""
        text = self.fields.get(name)
        found = default if text is None else as_number_value(text)
        if found is None:
            raise ValueError(f"{name} is no number")
        return found

    def mask(self, height: int, width: int) -> Segmentation:
        """Rasterise it; raise a ValueError where it is no shape."""
        if self.kind == "mask":
            return self._picture(height, width)
        turn = self.number("rotation", default=0.0)
        if self.kind == "box":
            box = (self.number(name) for name in ("xtl", "ytl", "xbr", "ybr"))
            return outline_mask(box_outline(*box, degrees=turn), height, width)
        if self.kind == "ellipse":
            ellipse = (self.number(name) for name in ("cx", "cy", "rx", "ry"))
            return outline_mask(ellipse_outline(*ellipse, degrees=turn), height, width)
        points = self.fields.get("points", "").replace(";", ",").split(",")
        corners = [as_number_value(value) for value in points]
        if None in corners:
            raise ValueError("a point is not two numbers")
        return outline_mask(corners, height, width)

    def _picture(self, height: int, width: int) -> Segmentation:
        names = ("left", "top", "width", "height")
        left, top, across, down = (round(self.number(name)) for name in names)
        if not (0 < across <= width and 0 < down <= height):
            raise ValueError(f"a mask of {across} x {down} pixels in {width} x {height}")
        counts = [int(run) for run in self.fields.get("rle", "").split(",")]
        # Runs go along rows of the mask's own box, unlike COCO's.
        region = region_of_runs(counts, height=down, width=across)
        return picture_mask(region, left=left, top=top, height=height, width=width)


@dataclass(frozen=True, slots=True, kw_only=True)
class CvatRecord(Record):
    """A photo with its shapes."""

    shapes: tuple[CvatShape, ...]
    height: int | None
    width: int | None
    """The photo's size as the XML gives it; None where it does not."""
    missing: str | None = None
    """None if the photo is there; else the files that it could be."""
    boxes: bool = True

    def known(self) -> list[str]:
        """Return a name for every shape."""
        return [self._name(number) for number in range(1, len(self.shapes) + 1)]

    def _name(self, number: int) -> str:
        return f"{self.name}: {self.shapes[number - 1].kind} {number}"

    def masks(self) -> MasksRead:
        """Rasterise the shapes; those of one group are one object.

        Raises:
            SkipImageError: the photo is missing, or unreadable where its size is needed.
        """
        refuse_missing(self.image, self.missing)
        height, width = self.height, self.width
        if height is None or width is None:
            height, width = photo_size(self.image)
        read = MasksRead()
        groups: dict[str, list[tuple[str, Segmentation]]] = {}
        for number, shape in enumerate(self.shapes, start=1):
            name = self._name(number)
            if shape.kind in _FLAT:
                read.skip("point, line or cuboid, which has no area", name)
                continue
            if shape.kind == "box" and not self.boxes:
                read.skip("box", name)
                continue
            try:
                mask = shape.mask(height, width)
            # One bad shape costs itself alone, and is counted.
            except (ValueError, OverflowError) as error:
                read.skip("bad shape", f"{name}: {error}")
                continue
            key = f"group {shape.group}" if shape.group else f"shape {number}"
            groups.setdefault(key, []).append((name, mask))
        for parts in groups.values():
            masks = [mask for _, mask in parts]
            read.add(parts[0][0], masks[0] if len(masks) == 1 else union_rle(masks))
        return read


@register
@dataclass(frozen=True, kw_only=True)
class Cvat(Format):
    """CVAT's `annotations.xml` and its `images`, as "CVAT for images 1.1" exports them."""

    name = "cvat"
    summary = "CVAT's XML for images (1.1) and its photos"
    image_places: ClassVar[tuple[str, ...]] = ("images", "")
    annotation_places = ("annotations.xml", "*.xml")
    annotations = Annotations(flag="--annotations", metavar="XML")

    boxes: bool = option(True, help="leave out boxes, which are masks by default")

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the XML in the order of its images."""
        return _listing(images, annotations, boxes=self.boxes)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for CVAT's root and an image in the first bytes."""
        try:
            with annotations.open("rb") as stream:
                start = stream.read(_START)
        except OSError:
            return False
        return b"<annotations" in start and (b"<image" in start or b"<meta" in start)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    name: str
    subset: str
    height: int | None
    width: int | None
    shapes: tuple[CvatShape, ...]


def _listing(images: Path, annotations: Path, *, boxes: bool) -> Listing:
    require_folder(images, "--images")
    require_file(annotations, "--annotations")
    listing = Listing(records=[], inputs=[annotations])
    found = list(_images(annotations))
    # Photos of a project lie in a folder for each subset, which their names do not have.
    names = [[f"{i.subset}/{i.name}", i.name] if i.subset else [i.name] for i in found]
    photos = find_photos(images, names)
    listing.notes += rename_note(photos, names)
    seen: set[Path] = set()
    for image, photo in zip(found, photos, strict=True):
        if photo.path in seen:
            listing.skip("image", "duplicate name", image.name)
            continue
        seen.add(photo.path)
        if not image.shapes:
            listing.skip("image", "no shape", image.name)
            continue
        listing.records.append(
            CvatRecord(
                name=photo.name,
                image=photo.path,
                shapes=image.shapes,
                height=image.height,
                width=image.width,
                missing=photo.missing,
                boxes=boxes,
            )
        )
    return listing


def _images(file: Path) -> Iterator[_Image]:
    """Yield the images of an XML.

    Raises:
        UserError: it is no XML of CVAT's for images, or damaged.
    """
    with file.open("rb") as stream:
        # Entities can be nested until they fill the memory, and CVAT writes none.
        if b"<!DOCTYPE" in stream.read(_START):
            raise UserError(f"{file} has a document type, which CVAT's XML has not: not read")
        stream.seek(0)
        try:
            root = None
            for event, element in ElementTree.iterparse(stream, events=("start", "end")):
                if root is None:
                    root = element
                    if root.tag != "annotations":
                        raise UserError(f"{file} is no XML of CVAT's: its root is {root.tag}")
                elif event == "start" and element.tag == "track":
                    raise UserError(
                        f"{file} is CVAT's XML for video: export it as `CVAT for images 1.1`"
                    )
                elif event == "end" and element.tag == "image":
                    yield _image(element)
                    # Shapes that were read would else stay until the end of the file.
                    root.clear()
        except ElementTree.ParseError as error:
            raise UserError(f"{file} is damaged or cut off ({error})") from None


def _image(element: ElementTree.Element) -> _Image:
    shapes = [
        CvatShape(kind=child.tag, fields=dict(child.attrib))
        for child in element
        if child.tag in _SHAPES | _FLAT
    ]
    return _Image(
        name=element.get("name", ""),
        subset=element.get("subset", ""),
        height=as_side(element.get("height")),
        width=as_side(element.get("width")),
        shapes=tuple(shapes),
    )
