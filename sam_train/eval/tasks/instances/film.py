"""Pictures of masks for ground-truth boxes: typical ones and the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from sam_train.eval.coco import Truth, TruthImage
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Picture
from sam_train.eval.pictures.filmstrip import FilmRow, Frame, filmstrip
from sam_train.runtime.jobs import SkipItem

_ROWS = 6
_SMALLEST = 100
"""Pixels below which a mask shows nothing in a picture."""
_MARGIN = 0.4
"""Width of the border shown around a box, as a share of its longer side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    key: str
    number: int
    """Number of the mask among the image's that are no crowd."""
    iou: float


def draw_films(
    truth: Truth,
    records: Sequence[Record],
    images: Mapping[str, TruthImage],
    *,
    folder: Path,
    refine: int,
) -> list[Picture]:
    """Draw `film.png` around the median IoU and `worst.png`, one mask of a photo in each.

    Nothing is drawn where the boxes are not the ground truth's.

    Args:
        images: by the records' key.
        folder: of the task.
        refine: rounds in which the mask went back, for the heading.
    """
    found = [
        _Choice(key=record["key"], number=k, iou=result["iou"])
        for record in records
        for k, result in enumerate(record["results"])
        if "iou" in result and result["area"] >= _SMALLEST
    ]
    found.sort(key=lambda choice: (choice.iou, choice.key, choice.number))
    by_key = {record["key"]: record for record in records}
    middle = len(found) // 2
    pictures = []
    for name, kind, order, title in (
        ("film", "film", found[middle:] + found[:middle][::-1], "typical masks (median IoU)"),
        ("worst", "worst", found, "worst masks"),
    ):
        # Reversed, so that a photo's first choice overwrites its later ones.
        one_each = {choice.key: choice for choice in reversed(order)}
        chosen = sorted(one_each.values(), key=order.index)[:_ROWS]
        strip = [
            row
            for choice in chosen
            if (row := _row(truth, images[choice.key], by_key[choice.key], choice)) is not None
        ]
        if strip:
            heads = ["box" if refine == 0 else f"box, {refine} x mask back"]
            path = folder / f"{name}.png"
            filmstrip(strip, titles=heads, caption=title).save(path)
            pictures.append(Picture(path=f"{folder.name}/{path.name}", title=title, kind=kind))
    return pictures


def _row(truth: Truth, image: TruthImage, record: Record, choice: _Choice) -> FilmRow | None:
    try:
        photo = truth.photo(image)
    except SkipItem:  # the photo was removed since it was measured
        return None
    # In the order in which boxes were prompted; equal scores of 1 keep the file's order.
    mask = [m for m in truth.masks(image)[0] if not m.crowd][choice.number]
    result = record["results"][choice.number]
    own = {"size": [image.height, image.width], "counts": result["counts"]}
    x0, y0, x1, y1 = mask.box
    margin = _MARGIN * max(x1 - x0, y1 - y0)
    left, top = (max(0, int(edge - margin)) for edge in (x0, y0))
    window = np.s_[top : int(y1 + margin) + 1, left : int(x1 + margin) + 1]
    return FilmRow(
        image=np.ascontiguousarray(photo[window]),
        truth=coco_mask.decode(dict(mask.rle)).astype(bool)[window],
        frames=[
            Frame(
                mask=coco_mask.decode(own).astype(bool)[window],
                iou=choice.iou,
                predicted_iou=result["predicted_iou"],
                box=(x0 - left, y0 - top, x1 - left, y1 - top),
            )
        ],
    )
