"""LVIS v1: COCO's photos with another JSON, which names them by their URL."""

from __future__ import annotations

from pathlib import Path

from sam_train.data.formats.coco import list_instances
from sam_train.data.formats.coco_file import CocoImage
from sam_train.data.formats.records import Listing


def list_lvis(images: Path, annotations: Path, *, crowds: bool = False) -> Listing:
    """List an LVIS JSON in the order of its `images`.

    LVIS splits COCO's photos anew: its validation set has some of train2017. So a photo is looked
    for in the folder that its URL names, then in `images` itself, then by its `file_name`, which
    LVIS v0.5 and subsets of other tools have. The lists of categories that are absent or
    incomplete say nothing about masks and are ignored.

    Args:
        images: holds `train2017` and `val2017`, or all photos side by side.
        crowds: as `list_coco`.

    Raises:
        UserError: a path is missing, or the file is not what LVIS's format says.
    """
    return list_instances(images, annotations, kind="LVIS", crowds=crowds, order=_url_first)


def _url_first(image: CocoImage) -> tuple[str, ...]:
    return tuple(sorted(image.names, key=lambda name: "://" not in name))
