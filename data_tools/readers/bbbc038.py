"""BBBC038v1 (Data Science Bowl 2018): a folder per photo with `images/` and `masks/`."""

from __future__ import annotations

from pathlib import Path

from data_tools.readers.masks import BinaryMasksRecord
from data_tools.readers.records import Listing, list_images, require_folder


def list_bbbc038(folder: Path) -> Listing:
    """List stage1_train: `ID/images/ID.png` and one PNG per nucleus in `ID/masks/`.

    Raises:
        UserError: the folder is missing.
    """
    require_folder(folder, "--images")
    listing = Listing(records=[])
    for sample in sorted(path for path in folder.iterdir() if path.is_dir()):
        photos = list(list_images(sample / "images")) if (sample / "images").is_dir() else []
        masks = sorted((sample / "masks").glob("*.png"))
        if not photos:
            listing.skip("image", "no photo", sample.name)
        elif not masks:
            listing.skip("image", "no mask file", sample.name)
        else:
            listing.records.append(
                BinaryMasksRecord(
                    name=photos[0].relative_to(folder).as_posix(),
                    image=photos[0],
                    paths=tuple(masks),
                )
            )
    return listing


__all__ = ["list_bbbc038"]
