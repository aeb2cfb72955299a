"""The files that `generate` leaves: SA-1B shards, COCO JSON, overlays, and lists of photos.

output/sa_000012.tar      photos of unit 12 that have masks, ready for data.train
output/coco.json          all photos and masks, once every unit is done
output/overlays/*.png
output/photos.csv         every photo's number, source, and count of masks or reason for none
output/done/000012.json   the same for unit 12, which is complete where this exists
output/coco/000012.json   its COCO JSON
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pycocotools import mask as coco_mask

from sam_train.data.sample.draw import draw_picture
from sam_train.data.shards.writer import Annotation, ShardSample, annotation_from_rle, write_shard
from sam_train.generate.generator import Proposals
from sam_train.generate.inputs import Photo
from sam_train.generate.journal import PhotoRecord
from sam_train.masks.changes import compressed
from sam_train.runtime.files import write_atomically, write_bytes, write_text
from sam_train.types import MASK_ID_BITS

CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}
"""The only category, as masks have no class."""


def annotations_of(found: Proposals, *, image_id: int) -> list[Annotation]:
    """Return the masks as SA-1B's files have them; an id joins photo and mask number."""
    masks = found.masks
    return [
        annotation_from_rle(
            compressed(changes, found.photo),
            # Unique over all photos without counting masks across processes.
            id=(image_id << MASK_ID_BITS) + k,
            predicted_iou=float(masks.iou[k]),
            stability_score=float(masks.stability[k]),
            point_coords=masks.points[k].tolist(),
            crop_box=found.crops[masks.crops[k]].xywh,
        )
        for k, changes in enumerate(masks.changes)
        if len(changes)
    ]


def draw_overlay(photo: Photo, annotations: Sequence[Annotation], path: Path, *, side: int) -> None:
    """Draw the photo with its masks on it, as a PNG."""
    text = json.dumps({"annotations": annotations}).encode()
    picture = draw_picture(photo.jpeg, text, side=side, numbers=False).masks
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda stream: picture.save(stream, "PNG"))


def write_unit_shard(
    records: Sequence[PhotoRecord], read: Callable[[int], Photo], path: Path
) -> None:
    """Write a tar of the photos that have masks; none if no photo has any.

    Args:
        records: of the unit.
        read: returns the photo of an image_id.
    """

    def samples() -> Iterator[ShardSample]:
        for record in records:
            if record.annotations:
                yield ShardSample(
                    image_id=record.image_id,
                    jpeg=read(record.image_id).jpeg,
                    width=record.width,
                    height=record.height,
                    annotations=record.annotations,
                )

    if any(record.annotations for record in records):
        write_shard(samples(), path)


def write_unit_coco(records: Sequence[PhotoRecord], path: Path) -> None:
    """Write photos and masks in COCO's form, with boxes as COCO counts them."""
    used = [record for record in records if not record.skipped]
    images = [
        {"id": r.image_id, "file_name": r.source, "width": r.width, "height": r.height}
        for r in used
    ]
    annotations = [_coco(record.image_id, mask) for record in used for mask in record.annotations]
    _write_coco(path, images, annotations)


def _coco(image_id: int, mask: Annotation) -> dict[str, Any]:
    return {
        "id": mask["id"],
        "image_id": image_id,
        "category_id": CATEGORY["id"],
        "segmentation": mask["segmentation"],
        # COCO's boxes span whole pixels; SA-1B's are last minus first pixel, one less.
        "bbox": coco_mask.toBbox(mask["segmentation"]).tolist(),
        "area": mask["area"],
        "iscrowd": 0,
        "score": mask["predicted_iou"],
        "stability_score": mask["stability_score"],
    }


def _write_coco(path: Path, images: Sequence[Any], annotations: Sequence[Any]) -> None:
    content = {"images": images, "annotations": annotations, "categories": [CATEGORY]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, msgspec.json.encode(content))


def join_coco(parts: Sequence[Path], path: Path) -> None:
    """Join the COCO files of all units."""
    contents = [msgspec.json.decode(part.read_bytes()) for part in parts]
    images = [image for content in contents for image in content["images"]]
    annotations = [mask for content in contents for mask in content["annotations"]]
    _write_coco(path, images, annotations)


def write_done(records: Sequence[PhotoRecord], path: Path) -> None:
    """Write the unit's list, without the masks. The unit is complete where this file exists."""
    rows = [
        {
            "image_id": record.image_id,
            "source": record.source,
            "masks": len(record.annotations),
            "skipped": record.skipped,
        }
        for record in records
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, msgspec.json.encode(rows))


def read_done(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the rows of some units' lists."""
    return [row for path in paths for row in msgspec.json.decode(path.read_bytes())]


def write_photo_list(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the table of all photos."""
    text = io.StringIO()
    table = csv.DictWriter(text, ["image_id", "source", "masks", "skipped"], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())
