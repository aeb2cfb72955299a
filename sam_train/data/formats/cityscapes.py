"""The format `cityscapes`: a PNG of instance numbers per photo, in another tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sam_train.data.formats.base import Annotations, Format, register
from sam_train.data.formats.leftovers import files_below
from sam_train.data.formats.mask_files import MaskFileError, read_labels
from sam_train.data.formats.mask_names import WITHOUT_PHOTO
from sam_train.data.formats.records import Listing, MasksRead, Record, list_images, require_folder
from sam_train.data.left_out import SkipImageError
from sam_train.masks.runs import label_masks

PHOTO = "_leftImg8bit"
INSTANCES = "_gtFine_instanceIds.png"

# Class numbers of the official label table that its evaluation takes.
THINGS = frozenset({24, 25, 26, 27, 28, 31, 32, 33})
STUFF = frozenset({7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23})


@dataclass(frozen=True, slots=True, kw_only=True)
class CityscapesRecord(Record):
    """A photo with its PNG of instances."""

    instances: Path
    """class * 1000 + number where instances are told apart, else the class alone."""

    def inputs(self) -> list[Path]:
        """Return the PNG."""
        return [self.instances]

    def masks(self) -> MasksRead:
        """Read the panoptic task's segments: every instance of a thing, every class of stuff.

        Groups (a thing's class without a number) are no single object, and are counted; classes
        that the official evaluation ignores are no masks.
        """
        try:
            labels = read_labels(self.instances)
        except MaskFileError as error:
            raise SkipImageError("unreadable mask file", str(error)) from error
        read = MasksRead()
        for label, mask in label_masks(labels).items():
            name = f"{self.instances.name}: label {label}"
            if label in THINGS:
                read.skip("crowd", name)
            # Instances are class * 1000 + number, so the class is what division leaves.
            elif label in STUFF or (label >= 1000 and label // 1000 in THINGS):
                read.add(name, mask)
            else:
                read.skip("class that the evaluation ignores", name)
        return read


@register
@dataclass(frozen=True, kw_only=True)
class Cityscapes(Format):
    """Cityscapes, or the same part of its two trees, such as leftImg8bit/val and gtFine/val."""

    name = "cityscapes"
    summary = "Cityscapes' photos (leftImg8bit) and instanceIds (gtFine)"
    image_places = ("leftImg8bit/val", "leftImg8bit")
    annotation_places = ("gtFine/val", "gtFine")
    annotations = Annotations(flag="--masks", metavar="DIR", help="gtFine")

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the photos, which are called `aachen_000000_000019_leftImg8bit.png`."""
        return _listing(images, annotations)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Trust the names of the two trees, which no other data set has."""
        return True


def _listing(images: Path, instances: Path) -> Listing:
    require_folder(images, "--images")
    require_folder(instances, "--masks")
    listing = Listing(records=[])
    for path in list_images(images):
        relative = path.relative_to(images)
        name = relative.as_posix()
        if not path.stem.endswith(PHOTO):
            listing.skip("image", f"name does not end in {PHOTO}", name)
            continue
        found = instances / relative.with_name(path.stem.removesuffix(PHOTO) + INSTANCES)
        if found.is_file():
            listing.records.append(CityscapesRecord(name=name, image=path, instances=found))
        else:
            listing.skip("image", "no mask file", name)
    # gtFine holds three more files for each photo.
    used = {record.inputs()[0] for record in listing.records}
    for path in files_below(instances):
        if path not in used:
            is_instances = path.name.endswith(INSTANCES)
            reason = WITHOUT_PHOTO if is_instances else "no file of instances, not needed"
            listing.skip("file", reason, path.relative_to(instances).as_posix())
    return listing
