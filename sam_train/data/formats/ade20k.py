"""The format `ade20k`: the full data set's objects and parts, or SceneParsing's 150 classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.leftovers import count_leftovers
from sam_train.data.formats.mask_files import MAX_LABELS, MaskFileError, read_labels
from sam_train.data.formats.parts import some_files
from sam_train.data.formats.records import Listing, MasksRead, Record, list_images, require_folder
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import open_pillow
from sam_train.masks.labels import split_regions
from sam_train.masks.runs import label_masks


def _read(path: Path) -> npt.NDArray[np.int64]:
    """Return the label map [H, W] of a PNG.

    Raises:
        MaskFileError: it cannot be read, or is a photo.
    """
    labels = read_labels(path)
    # A photo that is called like a mask would become thousands of one-pixel objects.
    if (values := np.unique(labels).size) > MAX_LABELS:
        raise MaskFileError(f"{path} has {values} different values")
    return labels


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsRecord(Record):
    """A photo of the full data set."""

    objects: Path
    """`x_seg.png`: red and green are the class, blue the instance (0: nothing)."""
    parts: tuple[Path, ...]
    """`x_parts_1.png`, parts of objects; `x_parts_2.png`, parts of parts; ..."""

    def inputs(self) -> list[Path]:
        """Return the PNGs."""
        return [self.objects, *self.parts]

    def masks(self) -> MasksRead:
        """Read every object and every part: one mask of its visible pixels."""
        read = MasksRead()
        for path in self.inputs():
            try:
                colours = _read(path)
            except MaskFileError as error:
                # Without the objects there is nothing; a level of parts may be missing.
                if path == self.objects:
                    raise SkipImageError("unreadable mask file", str(error)) from error
                read.skip("unreadable mask file", str(error))
                continue
            # The whole colour, not blue alone: of more than 255 instances some share their blue.
            colours[colours & 0xFF == 0] = 0
            for colour, mask in label_masks(colours, ignore=(0,)).items():
                read.add(f"{path.name}: colour 0x{colour:06x}", mask)
        return read


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenesRecord(Record):
    """A photo of SceneParsing with its map of classes."""

    classes: Path
    """1 to 150; 0 is everything else."""

    def inputs(self) -> list[Path]:
        """Return the PNG."""
        return [self.classes]

    def masks(self) -> MasksRead:
        """Read every connected region: a class is no single object, its regions nearly are.

        Pixels that only touch at a corner are not connected.
        """
        read = MasksRead()
        try:
            classes = _read(self.classes)
        except MaskFileError as error:
            raise SkipImageError("unreadable mask file", str(error)) from error
        # Below zero is no class, and must not become a region.
        regions = split_regions(np.maximum(classes, 0))
        for region, mask in label_masks(regions.labels, ignore=(0,)).items():
            name = f"{self.classes.name}: class {regions.values[region - 1]}, region {region}"
            read.add(name, mask)
        return read


@register
@dataclass(frozen=True, kw_only=True)
class Ade20k(Format):
    """ADE20K in full, or SceneParsing where the masks lie in a folder of their own."""

    name = "ade20k"
    summary = "ADE20K in full (PNGs beside the photos), or SceneParsing's images and annotations"
    image_places = ("images/ADE/validation", "images/validation", "images/ADE", "images", "")
    annotation_places = (
        "annotations/validation",
        "annotations",
        "images/ADE/validation",
        "images/ADE",
        "images",
        "",
    )
    annotations = Annotations(
        flag="--masks",
        metavar="DIR",
        help="SceneParsing's annotations; their connected regions become masks (default: the "
        "full data set's objects and parts, in PNGs beside the photos)",
        required=False,
    )

    parts: bool = option(True, help="objects only")

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the photos; the full data set has its PNGs beside them."""
        # The full data set has no folder of masks, so both paths are the same.
        masks = None if annotations == images else annotations
        return _listing(images, masks=masks, parts=self.parts)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a PNG of the full data set, which has colours, or SceneParsing's two folders."""
        if images == annotations:
            return any(_has_colours(path) for path in some_files(images, ("_seg.png",), most=1))
        # SceneParsing's photos and maps lie in parts of these names, and are called ADE_val_1.
        return next(annotations.rglob("ADE_*.png"), None) is not None


def _has_colours(path: Path) -> bool:
    try:
        with open_pillow(path) as image:
            return image.mode == "RGB"
    except OSError:
        return True


def _listing(images: Path, *, masks: Path | None, parts: bool) -> Listing:
    require_folder(images, "--images")
    if masks is not None:
        require_folder(masks, "--masks")
    listing = Listing(records=[])
    for path in list_images(images):
        # Photos are JPEGs in both releases; the PNGs beside them are masks.
        if path.suffix.lower() == ".png":
            continue
        relative = path.relative_to(images)
        name = relative.as_posix()
        if masks is None:
            found = path.with_name(f"{path.stem}_seg.png")
        else:
            found = masks / relative.with_suffix(".png")
        if not found.is_file():
            listing.skip("image", "no mask file", name)
        elif masks is None:
            levels = tuple(_parts(path)) if parts else ()
            listing.records.append(
                ObjectsRecord(name=name, image=path, objects=found, parts=levels)
            )
        else:
            listing.records.append(ScenesRecord(name=name, image=path, classes=found))
    if masks is not None:
        count_leftovers(listing, masks, images=images)
        return listing
    used = {file for record in listing.records for file in record.inputs()}
    for path in list_images(images):
        if path.suffix.lower() == ".png" and path not in used:
            # A file for each instance lies beside x_seg.png, which has them all.
            reason = "PNG that is no x_seg or x_parts of a photo, not needed"
            listing.skip("file", reason, path.relative_to(images).as_posix())
    return listing


def _parts(photo: Path) -> list[Path]:
    levels: list[Path] = []
    while (path := photo.with_name(f"{photo.stem}_parts_{len(levels) + 1}.png")).is_file():
        levels.append(path)
    return levels
