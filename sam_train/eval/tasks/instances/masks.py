"""Masks for boxes: three for each box, of which the most confident goes back (paper D.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from sam_train.eval.coco.results import Box
from sam_train.model import Sam
from sam_train.model.encoded_photos import (
    EncodedPhotos,
    box_prompts,
    encode_photos,
    split_prompts,
)
from sam_train.types import RLE, Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxMask:
    """The mask for a box."""

    rle: RLE
    """Original frame; possibly empty."""
    predicted_iou: float


@torch.no_grad()
def masks_of_boxes(
    sam: Sam,
    image: npt.NDArray[np.uint8],
    boxes: Sequence[Box],
    *,
    refine: int = 1,
    max_masks: int = 64,
) -> list[BoxMask]:
    """Return a mask for each box.

    Args:
        sam: in evaluation mode.
        image: uint8 [H, W, 3] RGB.
        boxes: x0 y0 x1 y1, edges in pixels of the original frame.
        refine: rounds in which the mask goes back with the box.
        max_masks: decoded at once; bounds memory.
    """
    if not boxes:
        return []
    photo = encode_photos(sam, [image])
    (h, w), (height, width) = photo.sizes[0], photo.originals[0]
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 2, 2)
    # As segment-anything's predictor scales boxes: edges, without a half pixel.
    scaled = corners * torch.tensor([w / width, h / height])
    found: list[BoxMask] = []
    for asked in split_prompts(box_prompts(scaled), max_masks):
        logits, iou = _refined(photo, asked, times=refine)
        for (bitmap,), value in zip(photo.bitmaps(logits), iou.float().tolist(), strict=True):
            # pycocotools reads column-major arrays only.
            rle = coco_mask.encode(np.asfortranarray(bitmap))
            size, counts = [int(n) for n in rle["size"]], rle["counts"].decode("ascii")
            found.append(BoxMask(rle=RLE(size=size, counts=counts), predicted_iou=value))
    return found


def _refined(photo: EncodedPhotos, asked: Prompts, *, times: int) -> tuple[Tensor, Tensor]:
    """Return logits [m, 1, g, g] and predicted IoU [m] of m boxes."""
    answer = photo.decode(asked, multimask=True)
    best = answer.iou.argmax(dim=1)
    every = torch.arange(len(best), device=best.device)
    logits, iou = answer.mask_logits[every, best][:, None], answer.iou[every, best]
    for _ in range(times):
        answer = photo.decode(replace(asked, mask_logits=logits), multimask=False)
        logits, iou = answer.mask_logits, answer.iou[:, 0]
    return logits, iou
