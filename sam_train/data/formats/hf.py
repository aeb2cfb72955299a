"""The format `hf`: Hugging Face `datasets` on disk, photos with masks or COCO-like objects in rows.

Arrow files are what `save_to_disk` writes, Parquet files what repositories on the hub hold.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.coco import photo_size
from sam_train.data.formats.coco_file import as_side
from sam_train.data.formats.hf_tables import (
    ARROW,
    PARQUET,
    RowPlace,
    has_tables,
    read_row,
    rows_of,
    schema_of,
    split_places,
    table_files,
)
from sam_train.data.formats.mask_rules import SAMPLED_FILES, Rules, learn
from sam_train.data.formats.masks import MasksRecord
from sam_train.data.formats.parts import Part
from sam_train.data.formats.records import Listing, MasksRead, Record, suffix_of
from sam_train.data.formats.segmentation import NoSegmentationError, parse_segmentation
from sam_train.data.left_out import SkipImageError
from sam_train.errors import UserError

_PHOTO = re.compile(r"^(image|img|photo|picture|pixel_values|rgb)s?$", re.I)
_MASK = re.compile(
    r"mask|label|annotation|segment|ground_?truth|^gt$|^seg|instance|semantic|trimap|target", re.I
)
_SEGMENTATION = ("segmentation", "segmentations", "polygons", "rle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns that hold the photo and its masks."""

    photo: str
    mask: str = ""
    """A picture, or a list of pictures; empty where `objects` has the masks."""
    objects: str = ""
    """COCO-like objects with a segmentation."""
    segmentation: str = ""
    """The objects' field that holds it."""
    sides: tuple[str, ...] = ()
    """The columns of height and width, where they are there."""

    def of_masks(self) -> list[str]:
        """Return the columns that masks are read from."""
        return [name for name in (self.mask, self.objects, *self.sides) if name]


@dataclass(frozen=True, slots=True, kw_only=True)
class HfRecord(Record):
    """A row."""

    place: RowPlace
    columns: Columns
    rules: Rules = field(default_factory=Rules)

    def embedded(self) -> bytes | None:
        """Return the photo's bytes."""
        return _bytes(self._row([self.columns.photo])[self.columns.photo], self.place.file)

    def _row(self, columns: Sequence[str]) -> dict[str, Any]:
        try:
            return read_row(self.place, columns)
        except OSError as error:
            raise SkipImageError("unreadable row", str(error)) from error

    def masks(self) -> MasksRead:
        """Read the row's mask pictures, by the rules for mask files, or its objects.

        Raises:
            SkipImageError: the row cannot be used.
        """
        row = self._row(self.columns.of_masks())
        if self.columns.mask:
            return self._pictures(row[self.columns.mask])
        return self._objects(row)

    def _pictures(self, cell: Any) -> MasksRead:
        contents = list(_pictures(cell, self.place.file))
        if not contents:
            raise SkipImageError("no mask", f"{self.name}: {self.columns.mask} is empty")
        # Files, because the reader of mask files tells their layouts apart by what lies in them.
        with tempfile.TemporaryDirectory(prefix="masks-") as folder:
            paths = _written(contents, Path(folder))
            return MasksRecord(
                name=self.name, image=self.image, paths=tuple(paths), rules=self.rules
            ).masks()

    def _objects(self, row: Mapping[str, Any]) -> MasksRead:
        sides = [as_side(row.get(name)) for name in self.columns.sides]
        if len(sides) != 2 or None in sides:
            with self.photo() as path:
                sides = list(photo_size(path))
        height, width = (side or 0 for side in sides)
        read = MasksRead()
        for number, item in enumerate(_items(row[self.columns.objects])):
            name = f"{self.name}: object {number}"
            # A region of many objects, which no single click means.
            if item.get("iscrowd") in (1, True):
                read.skip("crowd", name)
                continue
            try:
                text = msgspec.json.encode(item.get(self.columns.segmentation))
                read.add(name, parse_segmentation(text, height, width))
            except NoSegmentationError:
                read.skip("no segmentation", name)
            except (ValueError, OverflowError, TypeError) as error:
                read.skip("bad segmentation", f"{name}: {error}")
        return read


def _bytes(cell: Any, table: Path) -> bytes:
    """Return the bytes of a picture's cell: inside it, or in the file that it names."""
    if isinstance(cell, bytes):
        return cell
    found = cell if isinstance(cell, Mapping) else {}
    if isinstance(found.get("bytes"), bytes):
        return bytes(found["bytes"])
    path = found.get("path")
    if not isinstance(path, str):
        raise SkipImageError("no image in its row", "")
    try:
        # `datasets` keeps a path alone where a photo was never copied into the table.
        return (table.parent / path).read_bytes()
    except OSError as error:
        raise SkipImageError("missing image", f"{path}: {error.strerror}") from error


def _pictures(cell: Any, table: Path) -> Iterator[bytes]:
    for each in cell if isinstance(cell, list) else [cell]:
        if each is not None:
            yield _bytes(each, table)


def _written(contents: Sequence[bytes], folder: Path, *, first: int = 0) -> list[Path]:
    paths = []
    for number, content in enumerate(contents, start=first):
        paths.append(folder / f"mask {number}{suffix_of(content)}")
        paths[-1].write_bytes(content)
    return paths


def _items(cell: Any) -> Iterator[Mapping[str, Any]]:
    """Yield objects as mappings: a list of them, or a mapping of lists, as `datasets` has it."""
    if isinstance(cell, Mapping):
        lists = {key: value for key, value in cell.items() if isinstance(value, list)}
        # The longest: a list that is too short loses its own values, not the other objects.
        for number in range(max(map(len, lists.values()), default=0)):
            yield {k: v[number] for k, v in lists.items() if number < len(v)}
    for item in cell if isinstance(cell, list) else ():
        if isinstance(item, Mapping):
            yield item


@register
@dataclass(frozen=True, kw_only=True)
class HuggingFace(Format):
    """A data set of the library `datasets` on disk: a row a photo.

    The photo is the column `image` or the only picture that is no mask. Masks are a column of
    pictures, read as mask files are, or objects with a `segmentation`. Splits are parts.
    """

    name = "hf"
    summary = "Hugging Face datasets on disk: Arrow (save_to_disk) or Parquet (hub)"
    image_places = ("",)
    annotation_places = ("",)
    annotations = Annotations(
        flag="--tables", metavar="PATH", help="a split's folder or files", required=False
    )

    image: str = option("", metavar="COLUMN", help="the photo's column (default: by its name)")
    mask: str = option(
        "", metavar="COLUMN", help="the column of masks or objects (default: by its name)"
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the rows in the order of the files."""
        return _listing(images, annotations, image=self.image, mask=self.mask)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for tables by their names."""
        return has_tables(annotations)

    def find_parts(self, path: Path) -> Sequence[Part]:
        """Find the splits."""
        return [
            Part(name=name, images=path, annotations=place, path=place if place.is_dir() else None)
            for name, place in split_places(path).items()
            if has_tables(place)
        ]


def _listing(images: Path, tables: Path, *, image: str, mask: str) -> Listing:
    files = table_files(tables)
    if not files:
        raise UserError(f"{tables} holds no {ARROW} of save_to_disk and no {PARQUET}")
    columns = _columns(schema_of(files[0]), files[0], image=image, mask=mask)
    listing = Listing(records=[], inputs=list(files))
    rows = [found for file in files for found in rows_of(file, f"{columns.photo}.path")]
    times = Counter(name for _, name in rows)
    places = [place for place, _ in rows]
    rules = _rules(places, columns) if columns.mask else Rules()
    for number, (place, given) in enumerate(rows):
        # A file's name says more than a number, where each row has its own.
        own = isinstance(given, str) and times[given] == 1
        name = Path(given).name if own else f"row {number}"
        listing.records.append(
            HfRecord(
                name=f"{number:06d} {name}" if own else name,
                image=place.file,
                place=place,
                columns=columns,
                rules=rules,
            )
        )
    used = f"`{columns.photo}` with masks in `{columns.mask or columns.objects}`"
    listing.notes.append(f"{len(rows):,} rows: {used}")
    return listing


def _rules(places: Sequence[RowPlace], columns: Columns) -> Rules:
    """Learn from some rows what mask pictures stand for, as for a folder of mask files."""
    count = min(len(places), SAMPLED_FILES)
    with tempfile.TemporaryDirectory(prefix="masks-") as folder:
        paths: list[Path] = []
        for k in range(count):
            place = places[k * len(places) // count]
            try:
                cell = read_row(place, [columns.mask])[columns.mask]
                contents = list(_pictures(cell, place.file))
            except (OSError, SkipImageError):
                # Named and counted where the row is read.
                continue
            paths += _written(contents, Path(folder), first=len(paths))
        return learn(paths)


def _columns(schema: Any, file: Path, *, image: str, mask: str) -> Columns:
    """Choose the columns of photo and masks by their types and names.

    Raises:
        UserError: there are none, or a given one is not there.
    """
    types = {f.name: f.type for f in schema}
    listed = ", ".join(types)
    for given in (image, mask):
        if given and given not in types:
            raise UserError(f"{file} has no column {given}; it has {listed}")
    pictures = [name for name, kind in types.items() if _is_picture(kind)]
    named = [name for name in pictures if _PHOTO.match(name)]
    plain = [name for name in pictures if not _MASK.search(name)]
    photo = image or next(iter([*named, *plain]), "")
    if not photo:
        raise UserError(f"{file} has no column of photos (it has {listed}): name it by image=")
    sides = tuple(n for n in ("height", "width") if n in types)
    objects = {n: f for n, kind in types.items() if (f := _segmentation(kind))}
    others = [n for n, kind in types.items() if n != photo and _is_picture(_inner(kind))]
    masks = [name for name in others if _MASK.search(name)] or others
    chosen = mask or next(iter([*objects, *masks]), "")
    if chosen in objects:
        return Columns(photo=photo, objects=chosen, segmentation=objects[chosen], sides=sides)
    if chosen not in others:
        raise UserError(
            f"{file} has no column of masks, and none of objects with a segmentation (it has "
            f"{listed}): name it by mask="
        )
    return Columns(photo=photo, mask=chosen)


def _fields(kind: Any) -> dict[str, Any]:
    count = getattr(kind, "num_fields", 0)
    # A list has one field, its values; a struct any number, by name.
    is_struct = count and str(kind).startswith("struct")
    return {kind.field(k).name: kind.field(k).type for k in range(count)} if is_struct else {}


def _is_picture(kind: Any) -> bool:
    return {"bytes", "path"} <= set(_fields(kind))


def _inner(kind: Any) -> Any:
    """Return the type of a list's values; any other type as it is."""
    return kind.value_type if hasattr(kind, "value_type") else kind


def _segmentation(kind: Any) -> str:
    """Return the field of objects that holds their masks; "" where the type is no such thing."""
    fields = _fields(kind) or _fields(_inner(kind))
    return next((name for name in _SEGMENTATION if name in fields), "")
