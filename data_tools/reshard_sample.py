"""A sample of a shard, checked and, if asked for, made smaller."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.reshard_masks import shrink
from sam_train.data.left_out import Skip
from sam_train.data.sample.decode import BadSample, open_photo, read_masks, to_rgb
from sam_train.data.shards.annotations import read_document
from sam_train.data.shards.writer import TarEntry
from sam_train.masks.frame import InputFrame
from sam_train.masks.rle import PROBLEMS
from sam_train.masks.runs import compressed

QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Target size of photos that are made smaller."""

    long_side: int | None = None
    """Pixels of the longer side; smaller photos stay as they are. None: all stay."""
    quality: int = QUALITY
    """Quality of the JPEGs that are made anew."""


@dataclass(slots=True, kw_only=True)
class Remade:
    """A sample at its new size."""

    entry: TarEntry | None
    """None if it is damaged."""
    masks: int = 0
    skips: list[Skip] = field(default_factory=list)


def remake(entry: TarEntry, *, name: str, size: Size) -> Remade:
    """Check a sample and give it its new size; one that has it already keeps its bytes.

    Args:
        entry: as read from its shard.
        name: for messages: `shard.tar/sa_1`.

    Returns:
        Masks that are damaged, or so small that no pixel of the new size has its centre on them,
        are left out of a photo that is made smaller and named in `skips`; so is a damaged sample.
        Otherwise the sample is as it was, damaged masks included.
    """
    try:
        photo = open_photo(entry.jpeg)
        height, width = photo.height, photo.width
        masks = read_masks(entry.json, height=height, width=width)
        count = len(masks.runs.status)
        if size.long_side is None or max(height, width) <= size.long_side:
            return Remade(entry=entry, masks=count)
        frame = InputFrame(original=(height, width), side=size.long_side)
        # Decoded first: where the photo is damaged, its masks are of no use.
        pixels = frame.resize(to_rgb(photo))
    except BadSample as error:
        return Remade(entry=None, skips=[_skip("image", error.kind, f"{name} ({error})")])
    result = Remade(entry=None)
    document = read_document(entry.json)
    record = document if isinstance(document, dict) else {"annotations": document}
    kept = []
    for k, runs in enumerate(shrink(masks.runs, frame)):
        annotation = record["annotations"][k]
        number = annotation.get("id", k) if isinstance(annotation, dict) else k
        mask_name = f"{name}: annotation {number}"
        if masks.runs.status[k]:
            problem = PROBLEMS[int(masks.runs.status[k])]
            result.skips.append(_skip("mask", problem, mask_name))
        elif len(runs) < 2:
            reason = "empty" if masks.runs.areas[k] == 0 else "too small for the new size"
            result.skips.append(_skip("mask", reason, mask_name))
        else:
            try:
                kept.append(_scaled(annotation, runs, frame))
            except (TypeError, ValueError) as error:
                result.skips.append(_skip("mask", "bad point or crop", f"{mask_name} ({error})"))
    if count and not kept:
        result.skips.append(_skip("image", "no mask left", name))
        return result
    record["annotations"] = kept
    if isinstance(record.get("image"), dict):
        record["image"] |= {"height": frame.size[0], "width": frame.size[1]}
    content = json.dumps(record).encode("ascii")
    jpeg = _encode(pixels, quality=size.quality)
    result.entry = TarEntry(key=entry.key, jpeg=jpeg, json=content)
    result.masks = len(kept)
    return result


def _skip(kind: str, reason: str, name: str) -> Skip:
    return Skip(kind=kind, reason=reason, name=name)


def _encode(pixels: npt.NDArray[np.uint8], *, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _scaled(
    annotation: dict[str, Any], runs: npt.NDArray[np.int64], frame: InputFrame
) -> dict[str, Any]:
    """Scale the annotation to the new size: mask, area and box of the new mask, point and crop.

    SA-1B's points and crops are positions, not pixel indices (0.0 is the photo's edge), so they
    scale without a shift. Scores, id and fields that SA-1B does not have stay.
    """
    height, width = frame.size
    down, across = height / frame.original[0], width / frame.original[1]
    segmentation = compressed(runs, height=height, width=width)
    x, y, w, h = (float(value) for value in coco_mask.toBbox(segmentation))
    scaled = annotation | {
        "bbox": [x, y, w - 1.0, h - 1.0],
        "area": int(coco_mask.area(segmentation)),
        "segmentation": segmentation,
    }
    # Training needs neither, so other writers leave them out or make them null.
    if points := annotation.get("point_coords"):
        scaled["point_coords"] = [[px * across, py * down] for px, py in points]
    if crop := annotation.get("crop_box"):
        left, top, crop_width, crop_height = crop
        scaled["crop_box"] = [left * across, top * down, crop_width * across, crop_height * down]
    return scaled
