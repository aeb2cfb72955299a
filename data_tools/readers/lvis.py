"""LVIS v1: COCO's photos with another JSON, which names them by their URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from data_tools.readers.coco import (
    CocoAnnotation,
    CocoFile,
    CocoImage,
    list_instances,
    read_instances,
)
from data_tools.readers.records import Listing
from sam_train.errors import UserError


class LvisImage(msgspec.Struct):
    """An entry of `images`; the lists of categories that are absent or incomplete say nothing
    about masks and are ignored, like all other fields."""

    id: int
    height: int
    width: int
    coco_url: str = ""
    """`http://images.cocodataset.org/train2017/000000391895.jpg`."""
    file_name: str = ""
    """Of LVIS v0.5 and of subsets that other tools wrote."""


class LvisFile(msgspec.Struct):
    """The whole JSON."""

    images: list[LvisImage]
    annotations: list[CocoAnnotation]


def list_lvis(images: Path, annotations: Path) -> Listing:
    """List an LVIS JSON in the order of its `images`.

    LVIS splits COCO's photos anew: its validation set has some of train2017. So a photo is looked
    for in the folder that its URL names, and then in `images` itself.

    Args:
        images: holds `train2017` and `val2017`, or all photos side by side.

    Raises:
        UserError: a path is missing, or the file is not what LVIS's format says.
    """
    fields = "id, height, width and coco_url or file_name"
    lvis = read_instances(images, annotations, LvisFile, kind="LVIS", image_fields=fields)
    found = [
        CocoImage(
            id=image.id,
            file_name=_name(image, images, annotations),
            height=image.height,
            width=image.width,
        )
        for image in lvis.images
    ]
    coco = CocoFile(images=found, annotations=lvis.annotations)
    return list_instances(coco, images, annotations)


def _name(image: LvisImage, images: Path, annotations: Path) -> str:
    """Path below the images folder; where the photo is missing, the one it should have."""
    parts = urlsplit(image.coco_url).path.strip("/").split("/")
    name = "/".join(parts[-2:]) or image.file_name
    if not name:
        raise UserError(f"{annotations}: image {image.id} has neither coco_url nor file_name")
    alone = name.rsplit("/", 1)[-1]
    return alone if not (images / name).is_file() and (images / alone).is_file() else name
