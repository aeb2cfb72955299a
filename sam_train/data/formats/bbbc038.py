"""The format `bbbc038`: BBBC038v1 (Data Science Bowl 2018), a folder per photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sam_train.data.formats.base import Format, register
from sam_train.data.formats.leftovers import files_below
from sam_train.data.formats.mask_files import MASK_SUFFIXES
from sam_train.data.formats.mask_rules import Rules
from sam_train.data.formats.masks import MasksRecord
from sam_train.data.formats.parts import part_of, some_files
from sam_train.data.formats.records import IMAGE_SUFFIXES, Listing, list_images, require_folder

ONE_A_FILE = Rules(layout="binary")


@register
@dataclass(frozen=True, kw_only=True)
class Bbbc038(Format):
    """BBBC038v1's stage1_train: `ID/images/ID.png` and one PNG per nucleus in `ID/masks/`."""

    name = "bbbc038"
    summary = "BBBC038v1's stage1_train: a folder per photo with images/ and masks/"
    image_places = ("stage1_train", "")
    annotation_places = ("stage1_train", "")
    annotations = None

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the folders in the order of their names."""
        return _listing(images)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a folder with both parts, and one photo in it."""
        return any(
            len(list(some_files(found.parent / "images", sorted(IMAGE_SUFFIXES), most=2))) == 1
            # `train/images` and `train/masks` hold many photos, not one.
            and part_of(found.parent.name) is None
            for found in images.glob("*/masks")
        )


def _listing(folder: Path) -> Listing:
    require_folder(folder, "--images")
    listing = Listing(records=[])
    for sample in sorted(path for path in folder.iterdir() if path.is_dir()):
        # A folder has one photo; more of them would share the same masks.
        photos = list(list_images(sample / "images")) if (sample / "images").is_dir() else []
        found = files_below(sample / "masks") if (sample / "masks").is_dir() else ()
        # One file is one nucleus, so no file has to be told apart by its values.
        masks = [path for path in found if path.suffix.lower() in MASK_SUFFIXES]
        if not photos:
            listing.skip("image", "no photo", sample.name)
            continue
        if not masks:
            listing.skip("image", "no mask file", sample.name)
        else:
            name = photos[0].relative_to(folder).as_posix()
            record = MasksRecord(name=name, image=photos[0], paths=tuple(masks), rules=ONE_A_FILE)
            listing.records.append(record)
        for other in photos[1:]:
            name = other.relative_to(folder).as_posix()
            listing.skip("image", "a second photo of its folder", name)
    return listing
