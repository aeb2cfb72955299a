"""The format `voc`: Pascal VOC's folders, with a PNG of instances per photo.

CVAT, Datumaro and labelme2voc write the same folders; the PNGs may be palettes or colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam_train.data.formats.base import Annotations, Format, register
from sam_train.data.formats.mask_files import MAX_LABELS, MaskFileError, as_labels, first_page
from sam_train.data.formats.parts import Part, part_of
from sam_train.data.formats.records import IMAGE_SUFFIXES, Listing, MasksRead, Record
from sam_train.data.left_out import SkipImageError
from sam_train.errors import UserError
from sam_train.masks.runs import label_masks

PHOTOS, OBJECTS, CLASSES = "JPEGImages", "SegmentationObject", "SegmentationClass"
_LISTS = Path("ImageSets", "Segmentation")
_ROOTS = ("VOC*", "VOCdevkit/VOC*", "VOCdevkit", "*/VOC*")
BACKGROUND, BORDER = 0, 255
BORDER_COLOUR = 0xE0E0C0
"""The palette's colour of 255, in PNGs that have colours in place of a palette."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocRecord(Record):
    """A photo with its PNG."""

    png: Path

    def inputs(self) -> list[Path]:
        """Return the PNG."""
        return [self.png]

    def masks(self) -> MasksRead:
        """Read a mask for each value; 0 is the ground, 255 the border that nothing counts.

        Raises:
            SkipImageError: the PNG cannot be used.
        """
        try:
            page = first_page(self.png)
            labels = as_labels(page.pixels, self.png)
        except MaskFileError as error:
            raise SkipImageError("unreadable mask file", str(error)) from error
        if (values := np.unique(labels).size) > MAX_LABELS:
            raise SkipImageError("not a mask", f"{self.png.name}: {values} different values")
        colour = page.pixels.ndim == 3
        ignore = (BACKGROUND, BORDER_COLOUR if colour else BORDER)
        read = MasksRead()
        for label, mask in label_masks(labels, ignore=ignore).items():
            shown = f"0x{label:06x}" if colour else str(label)
            read.add(f"{self.png.name}: object {shown}", mask)
        if not read.masks:
            read.skip("empty", self.png.name)
        return read


@register
@dataclass(frozen=True, kw_only=True)
class Voc(Format):
    """Pascal VOC: the PNGs of SegmentationObject, or of SegmentationClass where there are none.

    The lists of ImageSets/Segmentation are its parts.
    """

    name = "voc"
    summary = "Pascal VOC's JPEGImages and SegmentationObject"
    image_places = ("",)
    annotation_places = ("",)
    annotations = Annotations(
        flag="--names",
        metavar="TXT",
        help="a list of ImageSets/Segmentation (default: every photo with a PNG)",
        required=False,
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the photos in the order of their list, or of their names."""
        return _listing(images, annotations)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Trust the names of the two folders, which no other data set has."""
        place = annotations if annotations.is_file() else images
        return _root(place) is not None

    def find_parts(self, path: Path) -> Sequence[Part]:
        """Find the lists of names; `trainval` is no part, for it holds both."""
        root = _root(path) if path.is_dir() else None
        files = sorted((root / _LISTS).glob("*.txt")) if root is not None else []
        return [
            Part(name=name, path=file, images=file.parent, annotations=file)
            for file in files
            # An empty list is how a part without photos is written.
            if (name := part_of(file.stem)) is not None and file.stat().st_size
        ]


def _root(path: Path) -> Path | None:
    """Return the folder that has the photos and PNGs: at a path, below it or above it."""
    below = [path]
    for pattern in _ROOTS if path.is_dir() else ():
        below += sorted(path.glob(pattern))
    # Above: a list and JPEGImages name the data set that they belong to.
    for folder in (*below, *[*path.parents][:3]):
        if (folder / PHOTOS).is_dir() and _pngs(folder) is not None:
            return folder
    return None


def _pngs(root: Path) -> Path | None:
    return next((root / name for name in (OBJECTS, CLASSES) if (root / name).is_dir()), None)


def _listing(images: Path, names: Path) -> Listing:
    root = _root(names if names.is_file() else images)
    if root is None or (pngs := _pngs(root)) is None:
        raise UserError(
            f"{images} has no {PHOTOS} beside {OBJECTS} or {CLASSES}, the folders of Pascal VOC"
        )
    listing = Listing(records=[])
    # By the stem: a list names photos without an ending, and PNGs have another than photos.
    photos = {path.stem: path for path in _photos(root / PHOTOS)}
    files = {path.stem: path for path in sorted(pngs.glob("*.png"))}
    if pngs.name == CLASSES:
        listing.notes.append(
            f"there is no {OBJECTS}: each class of {CLASSES} is one mask of a photo; of objects "
            "that touch, `masks` with regions makes one each"
        )
    listed = _listed(names, listing) if names.is_file() else sorted(files)
    for name in listed:
        if name not in photos:
            listing.skip("image", "missing image", name)
        elif name not in files:
            listing.skip("image", "no mask file", name)
        else:
            photo = photos[name]
            listing.records.append(VocRecord(name=photo.name, image=photo, png=files[name]))
    return listing


def _photos(folder: Path) -> Iterator[Path]:
    # Reversed, so that of `a.jpg` and `a.png` the first by name stays.
    for path in sorted(folder.iterdir(), reverse=True):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            yield path


def _listed(file: Path, listing: Listing) -> list[str]:
    """Return the names of a list, each once; a second word of a line is no part of the name."""
    listing.inputs.append(file)
    names: dict[str, None] = {}
    for line in file.read_bytes().decode("utf-8-sig", "replace").splitlines():
        words = line.split() if line.endswith((" 1", " -1", " 0")) else [line.strip()]
        if not words or not words[0]:
            continue
        # Programs write `a`, `a.jpg` or `JPEGImages/a.jpg`.
        last = words[0].replace("\\", "/").rsplit("/", 1)[-1]
        stem, dot, ending = last.rpartition(".")
        name = stem if dot and f".{ending.lower()}" in IMAGE_SUFFIXES else last
        if name in names:
            listing.skip("image", "duplicate name", name)
        names[name] = None
    return list(names)
