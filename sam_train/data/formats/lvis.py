"""The format `lvis`: LVIS v1, COCO's photos with another JSON, which names them by their URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sam_train.data.formats.base import register, usual_paths
from sam_train.data.formats.coco import Coco, list_instances
from sam_train.data.formats.coco_file import CocoImage
from sam_train.data.formats.records import Listing


@register
@dataclass(frozen=True, kw_only=True)
class Lvis(Coco):
    """LVIS, whose validation set has some photos of train2017.

    So a photo is looked for in the folder that its URL names, then in the photos' folder itself.
    Then its `file_name` counts, which LVIS v0.5 and subsets of other tools have. The lists of
    categories that are absent or incomplete say nothing about masks and are ignored.
    """

    name = "lvis"
    summary = "an LVIS JSON and COCO's photos: `train2017` and `val2017`, or all side by side"
    image_places = ("images", "")
    annotation_places = ("lvis_v1_val.json", "annotations/lvis_v1_val.json", "*lvis*val*.json")

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the JSON in the order of its `images`."""
        return list_instances(
            images, annotations, kind="LVIS", crowds=self.crowds, order=_url_first
        )

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for the name, too, without which it is a COCO JSON like others."""
        return "lvis" in annotations.name.lower() and super().fits(images, annotations)

    def _has_instances(self, file: Path) -> bool:
        return "lvis" in file.name.lower()

    def _photos_of(self, path: Path, part: str, word: str) -> Path | None:
        # The validation set has photos of train2017, so the folder above both is needed.
        return usual_paths(type(self), path)[0]


def _url_first(image: CocoImage) -> tuple[str, ...]:
    # A stable sort by a bool: URLs come first, and both keep their order.
    return tuple(sorted(image.names, key=lambda name: "://" not in name))
