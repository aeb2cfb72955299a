"""The answers for each held-out object, kept as run lengths to compare before with after."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sam_train.eval.clicks.box_prompt import BoxResult
from sam_train.eval.clicks.interactive import ClickResult
from sam_train.masks.error_region import Bitmap
from sam_train.runtime.files import write_text
from sam_train.types import MASK_ID_BITS, RLE


@dataclass(slots=True, kw_only=True)
class Answer:
    """The model's mask for one prompt."""

    iou: float
    rle: dict[str, Any]
    """Run lengths for pycocotools, but with the string as text."""
    predicted_iou: float

    def mask(self) -> Bitmap:
        """Decode the mask: uint8 [H, W], original frame."""
        return decode(self.rle)


@dataclass(slots=True, kw_only=True)
class Object:
    """A held-out object with what the model made of it."""

    key: str
    """The photo."""
    position: int
    """The photo's place in data.val."""
    truth: dict[str, Any]
    point: tuple[float, float] = (0.0, 0.0)
    """The click (x, y), original frame."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """x0 y0 x1 y1, original frame."""
    clicked: Answer | None = None
    boxed: Answer | None = None


@dataclass(slots=True)
class Objects:
    """An observer of `evaluate_clicks` that keeps the answers to the first click and to the box."""

    found: dict[int, Object] = field(default_factory=dict)
    """The objects by their mask ids, which are the same in every measurement of the same data."""

    def see_click(self, result: ClickResult) -> None:
        """Keep the answer to a first click."""
        if result.clicks == 1:
            one = self._object(result)
            one.point = _to_photo(result, *result.point)
            one.clicked = _answer(result)

    def see_box(self, result: BoxResult) -> None:
        """Keep the answer to a box."""
        one = self._object(result)
        one.box = (*_to_photo(result, *result.box[:2]), *_to_photo(result, *result.box[2:]))
        one.boxed = _answer(result)

    def save(self, path: Path) -> None:
        """Write all answers as JSON."""
        write_text(path, json.dumps({str(k): asdict(one) for k, one in self.found.items()}))

    def _object(self, result: ClickResult | BoxResult) -> Object:
        batch, k = result.batch, result.mask_index
        number = int(batch.mask_ids[k])
        if number not in self.found:
            assert batch.rles is not None
            owner = int(batch.image_index[k])
            self.found[number] = Object(
                key=batch.keys[owner],
                position=number >> MASK_ID_BITS,
                truth=_as_text(batch.rles[k]),
            )
        return self.found[number]


def read_objects(path: Path) -> dict[int, Object]:
    """Read what `Objects.save` wrote."""
    found: dict[int, Object] = {}
    for number, raw in json.loads(path.read_text()).items():
        for kind in ("clicked", "boxed"):
            raw[kind] = raw[kind] and Answer(**raw[kind])
        raw["point"], raw["box"] = tuple(raw["point"]), tuple(raw["box"])
        found[int(number)] = Object(**raw)
    return found


def decode(rle: dict[str, Any]) -> Bitmap:
    """Decode run lengths whose string is text: uint8 [H, W]."""
    mask: Bitmap = np.ascontiguousarray(
        coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()})
    )
    return mask


def _answer(result: ClickResult | BoxResult) -> Answer:
    return Answer(
        iou=result.iou,
        predicted_iou=result.predicted_iou,
        rle=_as_text(coco_mask.encode(np.asfortranarray(result.mask))),
    )


def _as_text(rle: RLE) -> dict[str, Any]:
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }


def _to_photo(result: ClickResult | BoxResult, x: float, y: float) -> tuple[float, float]:
    """Map a pixel index of the input frame to the photo's."""
    owner = int(result.batch.image_index[result.mask_index])
    size = result.batch.image_sizes[owner].tolist()
    original = result.batch.original_sizes[owner].tolist()
    # Half a pixel: indices name centres, and sizes are scaled from edge to edge.
    return (
        (x + 0.5) * original[1] / size[1] - 0.5,
        (y + 0.5) * original[0] / size[0] - 0.5,
    )
