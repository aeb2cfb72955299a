"""The files of SA-1B, field for field: annotation dicts, records and tar shards.

A shard `sa_000012.tar` holds pairs `sa_N.jpg`, `sa_N.json`. The published JSON says more than its
documentation. Every coordinate and score is a float, while `area`, `id`, `image_id`, `width` and
`height` are integers. Width and height in `bbox` are one less than the mask's extent in pixels
(last minus first, not a count).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from webdataset.writer import TarWriter

from sam_train.masks.runs import Segmentation
from sam_train.runtime.files import atomic

BoolMask = npt.NDArray[np.bool_]

SAMPLES_PER_SHARD = 500
SHARD_NAME = "sa_{:06d}.tar"


class Annotation(TypedDict):
    """A mask of a photo, keys in the order of the published files."""

    bbox: list[float]
    """[x, y, w, h], pixels of the photo; w and h are last minus first index."""
    area: int
    segmentation: Segmentation
    predicted_iou: float
    point_coords: list[list[float]]
    """[[x, y]]: the point that prompted the mask, pixels of the photo."""
    crop_box: list[float]
    """[x, y, w, h] of the crop the mask was made in."""
    id: int
    stability_score: float


class ImageInfo(TypedDict):
    """The photo an annotation list belongs to."""

    image_id: int
    width: int
    height: int
    file_name: str


class Record(TypedDict):
    """The whole JSON file of one photo."""

    image: ImageInfo
    annotations: list[Annotation]


@dataclass(slots=True, kw_only=True)
class ShardSample:
    """A photo with its masks, ready to be written."""

    image_id: int
    """N of `sa_N.jpg`; unique within the dataset."""
    jpeg: bytes
    """The encoded photo, written as it is."""
    width: int
    height: int
    annotations: list[Annotation]

    @property
    def record(self) -> Record:
        """The JSON file's content."""
        return {
            "image": {
                "image_id": self.image_id,
                "width": self.width,
                "height": self.height,
                "file_name": f"sa_{self.image_id}.jpg",
            },
            "annotations": self.annotations,
        }


def annotation(
    mask: BoolMask,
    *,
    id: int,
    predicted_iou: float = 1.0,
    stability_score: float = 1.0,
    point_coords: Sequence[float] | None = None,
    crop_box: Sequence[float] | None = None,
) -> Annotation:
    """Make the annotation of one mask.

    Args:
        mask: bool [H, W], original frame, at least one pixel set.
        id: unique number of the mask.
        predicted_iou: the maker's own estimate; 1.0 for ground truth.
        stability_score: as SA-1B defines it; 1.0 for ground truth.
        point_coords: (x, y) that prompted the mask; None takes a pixel in its middle.
        crop_box: (x, y, w, h) of the crop; None is the whole photo.

    Raises:
        ValueError: the mask is not two-dimensional or has no pixel.
    """
    return annotate_masks(
        np.asarray(mask, dtype=bool)[None],
        first_id=id,
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        point_coords=None if point_coords is None else [point_coords],
        crop_box=crop_box,
    )[0]


def annotate_masks(
    masks: npt.NDArray[Any],
    *,
    first_id: int,
    predicted_iou: float = 1.0,
    stability_score: float = 1.0,
    point_coords: Sequence[Sequence[float]] | None = None,
    crop_box: Sequence[float] | None = None,
) -> list[Annotation]:
    """Make annotations as `annotation` does, for bool [N, H, W] at once, numbered from
    `first_id`."""
    if masks.ndim != 3:
        raise ValueError(f"masks must be [N, H, W], got shape {list(masks.shape)}")
    # pycocotools wants [H, W, N] in Fortran order: that is [N, W, H] in C order, transposed.
    columns = np.ascontiguousarray(masks.transpose(0, 2, 1), dtype=np.uint8)
    encoded = coco_mask.encode(columns.transpose(2, 1, 0))
    result = []
    for i, rle in enumerate(encoded):
        area = _area(rle, name=first_id + i)
        extent = coco_mask.toBbox(rle)
        # Only the mask's own columns are searched for its middle.
        left, right = int(extent[0]), int(extent[0] + extent[2])
        result.append(
            _entry(
                rle,
                id=first_id + i,
                area=area,
                predicted_iou=predicted_iou,
                stability_score=stability_score,
                point=(
                    _middle(columns[i, left:right], left)
                    if point_coords is None
                    else point_coords[i]
                ),
                crop_box=crop_box,
            )
        )
    return result


def _area(rle: Any, *, name: int) -> int:
    area = int(coco_mask.area(rle))
    if area == 0:
        raise ValueError(f"mask {name} has no pixel; leave empty masks out of the dataset")
    return area


def annotation_from_rle(
    rle: Any,
    *,
    id: int,
    predicted_iou: float = 1.0,
    stability_score: float = 1.0,
    point_coords: Sequence[float] | None = None,
    crop_box: Sequence[float] | None = None,
) -> Annotation:
    """Make an annotation as `annotation` does, from a COCO RLE: compressed (str or bytes) or plain
    lists of runs.

    Raises:
        ValueError: the mask has no pixel.
    """
    # Plain runs are the other form of COCO's files; `area` and `toBbox` take compressed ones alone.
    if isinstance(rle["counts"], list):
        rle = coco_mask.frPyObjects(rle, *rle["size"])
    area = _area(rle, name=id)
    if point_coords is None:
        # pycocotools decodes in Fortran order, so its transpose is contiguous as it is.
        point_coords = _middle(np.ascontiguousarray(coco_mask.decode(rle).T))
    return _entry(
        rle,
        id=id,
        area=area,
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        point=point_coords,
        crop_box=crop_box,
    )


def _entry(
    rle: Any,
    *,
    id: int,
    area: int,
    predicted_iou: float,
    stability_score: float,
    point: Sequence[float],
    crop_box: Sequence[float] | None,
) -> Annotation:
    counts = rle["counts"]
    height, width = (int(side) for side in rle["size"])
    x, y, w, h = (float(value) for value in coco_mask.toBbox(rle))
    box = [0.0, 0.0, float(width), float(height)] if crop_box is None else map(float, crop_box)
    return {
        # SA-1B's boxes end on the last pixel, COCO's behind it.
        "bbox": [x, y, w - 1.0, h - 1.0],
        "area": area,
        "segmentation": {
            "size": [height, width],
            "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
        },
        "predicted_iou": float(predicted_iou),
        "point_coords": [[float(value) for value in point]],
        "crop_box": list(box),
        "id": int(id),
        "stability_score": float(stability_score),
    }


def _middle(columns: npt.NDArray[np.uint8], left: int = 0) -> list[float]:
    """Return (x, y) of the median foreground pixel in column-major order: always on the mask.

    `columns` is uint8 [w, H], the part of the mask from column `left` on.
    """
    # The median of the pixels, not of the box: it lies on the mask, however that is bent.
    on = np.flatnonzero(columns)
    x, y = divmod(int(on[on.size // 2]), columns.shape[1])
    return [float(left + x), float(y)]


def shard_path(out: Path, index: int) -> Path:
    """Return the path of shard `index` of a dataset."""
    return out / SHARD_NAME.format(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class TarEntry:
    """The two files of one sample, as they stand in a shard."""

    key: str
    """Names of the files without extension: `sa_12`."""
    jpeg: bytes
    json: bytes


def write_shard(samples: Iterable[ShardSample], path: Path) -> int:
    """Write one tar of samples; see `write_entries`."""
    return write_entries(
        (
            TarEntry(
                key=f"sa_{sample.image_id}",
                jpeg=sample.jpeg,
                # `dumps` escapes whatever is not ASCII.
                json=json.dumps(sample.record).encode("ascii"),
            )
            for sample in samples
        ),
        path,
    )


def write_entries(entries: Iterable[TarEntry], path: Path) -> int:
    """Write one tar and return how many samples it holds.

    Equal entries give equal bytes: time, owner and permissions are fixed. The file appears under
    its name only when it is complete.
    """
    count = 0
    with (
        atomic(path) as unfinished,
        unfinished.open("wb") as stream,
        # Whole seconds: a float would cost every file another kilobyte of headers.
        TarWriter(stream, user="", group="", mtime=0, encoder=False) as tar,
    ):
        # Sorted by ending: the photo, and its JSON right behind it, so that a sample is one read.
        for entry in entries:
            tar.write({"__key__": entry.key, "jpg": entry.jpeg, "json": entry.json})
            count += 1
    return count


def write_shards(
    samples: Iterable[ShardSample],
    out: Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    first_shard: int = 0,
) -> list[Path]:
    """Write `sa_000000.tar`, `sa_000001.tar`, … into `out`; returns their paths.

    Args:
        samples: in the order in which they shall lie in the shards; read as a stream.
        out: folder, made if absent.
        samples_per_shard: the last shard may hold fewer.
        first_shard: number of the first shard.

    Raises:
        ValueError: `samples_per_shard` is below 1.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    out.mkdir(parents=True, exist_ok=True)
    stream = iter(samples)
    paths: list[Path] = []
    # One sample ahead, so that no empty shard is begun at the end.
    for head in stream:
        path = shard_path(out, first_shard + len(paths))
        write_shard(chain([head], islice(stream, samples_per_shard - 1)), path)
        paths.append(path)
    return paths
