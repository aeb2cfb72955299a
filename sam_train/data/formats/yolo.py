"""The format `yolo`: YOLO-seg, a text file of outlines per photo and often a `data.yaml`.

A line is `class x y x y ...`, fractions of the photo's width and height. A line of five numbers is
a box, which is no mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml

from sam_train.data.formats.base import Annotations, Format, register
from sam_train.data.formats.coco import photo_size
from sam_train.data.formats.leftovers import files_below
from sam_train.data.formats.parts import Part, part_of, some_files
from sam_train.data.formats.records import (
    IMAGE_SUFFIXES,
    Listing,
    MasksRead,
    Record,
    is_file,
    list_images,
    require_folder,
)
from sam_train.errors import UserError
from sam_train.masks.runs import polygons_rle

_LINE = re.compile(r"\s*\d+(?:\.0*)?(?:\s+-?[\d.]+(?:[eE][+-]?\d+)?){4,}\s*")
_BOX = 5
"""Numbers of a line that is a box: class, centre, width and height."""
_LARGEST = 1.1
"""Fractions that a tool rounds or does not clip may lie so far out."""
_YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "*.yaml", "*.yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class YoloRecord(Record):
    """A photo with the lines of its text file."""

    labels: Path
    lines: tuple[tuple[int, str], ...]
    """(number from 1, text) of each line that is not empty."""

    def inputs(self) -> list[Path]:
        """Return the text file."""
        return [self.labels]

    def known(self) -> list[str]:
        """Return a name for every line."""
        return [self._name(number) for number, _ in self.lines]

    def _name(self, number: int) -> str:
        return f"{self.labels.name}: line {number}"

    def masks(self) -> MasksRead:
        """Rasterise every outline; a line that is none is counted and left out.

        Raises:
            SkipImageError: the photo is missing or unreadable, whose size is needed.
        """
        read = MasksRead()
        height, width = photo_size(self.image)
        for number, text in self.lines:
            try:
                values = [float(word) for word in text.split()[1:]]
            except ValueError:
                read.skip("no line of YOLO's form", self._name(number))
                continue
            if len(values) + 1 == _BOX:
                read.skip("box only", self._name(number))
            elif why := _why_no_polygon(values):
                read.skip("bad polygon", f"{self._name(number)}: {why}")
            else:
                # Fractions of the whole side, so that 1.0 is the far edge, not the last pixel.
                corners = np.asarray(values) * np.tile([width, height], len(values) // 2)
                mask = polygons_rle([corners.tolist()], height=height, width=width)
                read.add(self._name(number), mask)
        return read


def _why_no_polygon(values: Sequence[float]) -> str | None:
    if len(values) < 6:
        return "fewer than three corners"
    if len(values) % 2:
        return "an odd number of coordinates"
    # `not <=` instead of `>` refuses NaN, too.
    if not all(abs(value) <= _LARGEST for value in values):
        return "coordinates beyond 0 to 1 (pixels?)"
    return None


@register
@dataclass(frozen=True, kw_only=True)
class Yolo(Format):
    """YOLO-seg: `labels/a.txt` for `images/a.jpg`, or the text file beside the photo.

    Its parts are the entries `train`, `val` and `test` of a `data.yaml`: folders, lists of photos,
    or several of these. Without one they are folders of these names.
    """

    name = "yolo"
    summary = "photos and YOLO-seg's text files, in images/ and labels/ or side by side"
    image_places: ClassVar[tuple[str, ...]] = ("images", "")
    annotation_places = ("labels", "")
    annotations = Annotations(
        flag="--labels",
        metavar="DIR",
        help="the text files (default: `labels` in place of `images`, or beside the photos)",
        required=False,
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the photos in the order of their paths; those without objects are counted."""
        return _listing(images, annotations)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a text file of outlines or boxes with a photo of its name."""
        if annotations.is_file():
            return annotations.suffix in (".yaml", ".yml") and bool(_yaml_parts(annotations))
        # With a name behind it: only folders above a file are swapped.
        folders = {annotations, _swapped(images / "x", "images", "labels").parent}
        return any(
            _is_label(path) and _photo_of(path) is not None
            for folder in sorted(folders)
            for path in some_files(folder, (".txt",))
        )

    def find_parts(self, path: Path) -> Sequence[Part]:
        """Find the parts in a YAML, the path itself or in its folder; else by the folders."""
        if path.is_file():
            return _yaml_parts(path) if path.suffix in (".yaml", ".yml") else []
        for pattern in _YAMLS:
            for file in sorted(path.glob(pattern)):
                if parts := _yaml_parts(file):
                    return parts
        return super().find_parts(path)


def _is_label(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return any(_LINE.fullmatch(line) for _, line in zip(range(3), stream, strict=False))
    except OSError:
        return False


def _photo_of(label: Path) -> Path | None:
    """Return the photo of a text file, to see that it is one of YOLO's."""
    places = [label.parent, _swapped(label, "labels", "images").parent]
    for place in places:
        for suffix in sorted(IMAGE_SUFFIXES):
            if (found := place / f"{label.stem}{suffix}").is_file():
                return found
            if (found := place / f"{label.stem}{suffix.upper()}").is_file():
                return found
    return None


def _swapped(path: Path, old: str, new: str) -> Path:
    """Replace the last folder called `old` in a path, as YOLO finds labels."""
    parts = list(path.parts)
    # From the back: a folder further up may have that name, too.
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == old:
            parts[place] = new
            return Path(*parts)
    return path


def _yaml_parts(file: Path) -> list[Part]:
    """Return the parts that a YAML names and that exist; none where it is no YAML of YOLO's."""
    try:
        # `safe_load` makes plain values only; `load` could run code.
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return []
    if not isinstance(content, dict) or not {"names", "nc"} & set(content):
        return []
    parts = []
    for key, value in content.items():
        name = part_of(str(key))
        tried = [_resolved(file, content, given) for given in _entries(value)]
        places = [place for place in tried if place is not None]
        if name is None or not places:
            continue
        if len(places) > 1:
            listed = ", ".join(map(str, places))
            raise UserError(
                f"{file}: {key} has {len(places)} places ({listed}): name each of them, as "
                f"yolo:{places[0]}, in a list"
            )
        (place,) = places
        images = place.parent if place.is_file() else place
        parts.append(Part(name=name, images=images, annotations=place, path=place))
    return parts


def _entries(value: Any) -> list[Path]:
    values = value if isinstance(value, list) else [value]
    return [Path(each) for each in values if isinstance(each, str) and each.strip()]


def _resolved(file: Path, content: dict[Any, Any], given: Path) -> Path | None:
    """Return the place of an entry: below the YAML's `path`, else below its own folder.

    Roboflow writes `../train/images` for a folder beside the YAML, and `path` is often one of
    another machine.
    """
    root = content.get("path")
    roots = [file.parent / root] if isinstance(root, str) and root else []
    tries = [folder / given for folder in (*roots, file.parent)]
    if given.parts[:1] == ("..",):
        tries.append(file.parent / Path(*given.parts[1:]))
    return next((place.resolve() for place in tries if is_file(place) or _is_folder(place)), None)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # as in `is_file`
        return False


def _listing(images: Path, labels: Path) -> Listing:
    require_folder(images, "--images")
    listing = Listing(records=[])
    if labels.is_file() and labels.suffix in (".yaml", ".yml"):
        raise UserError(f"{labels}: none of its entries train, val and test leads to photos")
    photos = _listed(labels, listing) if labels.is_file() else list(list_images(images))
    own = labels if labels.is_dir() and labels.resolve() != images.resolve() else None
    used: set[Path] = set()
    for photo in photos:
        inside = photo.relative_to(images) if photo.is_relative_to(images) else Path(photo.name)
        file = _label_of(photo, own / inside if own is not None else photo)
        name = inside.as_posix()
        if file is None:
            listing.skip("image", "no text file: no object", name)
            continue
        if file in used:
            listing.skip("image", "duplicate name", name)
            continue
        used.add(file)
        text = file.read_bytes().decode("utf-8-sig", "replace")
        lines = tuple((n, s) for n, s in enumerate(text.splitlines(), 1) if s.strip())
        if not lines:
            listing.skip("image", "empty text file: no object", name)
            continue
        _add(listing, YoloRecord(name=name, image=photo, labels=file, lines=lines))
    folder = own or _swapped(images / "x", "images", "labels").parent
    # Text files beside the photos may be anything, such as a licence.
    for file in files_below(folder) if folder != images and folder.is_dir() else ():
        if file.suffix == ".txt" and file not in used and file.name != "classes.txt":
            listing.skip("file", "text file without a photo", file.relative_to(folder).as_posix())
    return listing


def _add(listing: Listing, record: YoloRecord) -> None:
    """Add a record; a photo of boxes alone is counted here, for no read could use it."""
    boxes = [n for n, text in record.lines if len(text.split()) == _BOX]
    if len(boxes) < len(record.lines):
        listing.records.append(record)
        return
    listing.skip("image", "boxes only, no mask", record.name)
    for number in boxes:
        listing.skip("mask", "box only", f"{record.labels.name}: line {number}")


def _label_of(photo: Path, place: Path) -> Path | None:
    """Return a photo's text file, also where it is named as the photo with its ending."""
    swapped = _swapped(place, "images", "labels")
    for file in (swapped, place):
        for label in (file.with_suffix(".txt"), file.with_name(f"{photo.name}.txt")):
            if label.is_file():
                return label
    return None


def _listed(file: Path, listing: Listing) -> list[Path]:
    """Return the photos of a list, a path a line, relative to the list; count those not there."""
    listing.inputs.append(file)
    found = []
    for line in file.read_bytes().decode("utf-8-sig", "replace").splitlines():
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        path = next((p for p in _places(file, name) if is_file(p)), None)
        if path is None:
            listing.skip("image", "missing image", name)
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _places(file: Path, name: str) -> Iterator[Path]:
    yield file.parent / name
    # A list from another machine: below the folder of the list, by the end of the path.
    parts = Path(name).parts
    for start in range(1, len(parts)):
        yield file.parent / Path(*parts[start:])
