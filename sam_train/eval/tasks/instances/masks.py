"""Boxes to masks: a box asks for three masks, the surest goes back with the box (paper D.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from sam_train.eval.coco.results import Box
from sam_train.masks.frame import InputFrame
from sam_train.model import Sam
from sam_train.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, RLE, Prompts

# Upscaled logits held at once; 2^26 float32 are 256 MiB.
_PIXELS_AT_ONCE = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxMask:
    """What a box became."""

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
    """A mask for each box.

    Args:
        sam: in evaluation mode.
        image: uint8 [H, W, 3] RGB.
        boxes: x0 y0 x1 y1, edges in pixels of the original frame. They are scaled to the input
            frame as segment-anything's predictor scales them.
        refine: rounds in which the mask goes back with the box.
        max_masks: decoded at once; bounds memory.
    """
    if not boxes:
        return []
    device = next(sam.parameters()).device
    frame = InputFrame(original=(image.shape[0], image.shape[1]), side=sam.image_size)
    height, width = frame.size
    square = np.zeros((sam.image_size, sam.image_size, 3), dtype=np.uint8)
    square[:height, :width] = frame.resize(Image.fromarray(image))
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None].to(device)
    embeddings = sam.encode(pixels, torch.tensor([frame.size], device=device))
    scale = torch.tensor([width / image.shape[1], height / image.shape[0]])
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 2, 2) * scale
    found: list[BoxMask] = []
    for part in torch.split(corners, max_masks):
        logits, iou = _decode(sam, embeddings, part.to(device), refine=refine)
        found += [
            BoxMask(rle=rle, predicted_iou=value)
            for rle, value in zip(
                _encoded(sam, logits, frame), iou.float().cpu().tolist(), strict=True
            )
        ]
    return found


def _decode(sam: Sam, embeddings: Tensor, corners: Tensor, *, refine: int) -> tuple[Tensor, Tensor]:
    """Logits [m, 1, g, g] and predicted IoU [m] of boxes [m, 2, 2], input frame."""
    m = len(corners)
    labels = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=corners.device).expand(m, 2)
    owner = torch.zeros(m, dtype=torch.int64, device=corners.device)
    answer = sam.decode(embeddings, owner, Prompts(coords=corners, labels=labels), multimask=True)
    best = answer.iou.argmax(dim=1)
    every = torch.arange(m, device=corners.device)
    logits, iou = answer.mask_logits[every, best][:, None], answer.iou[every, best]
    for _ in range(refine):
        prompts = Prompts(coords=corners, labels=labels, mask_logits=logits)
        answer = sam.decode(embeddings, owner, prompts, multimask=False)
        logits, iou = answer.mask_logits, answer.iou[:, 0]
    return logits, iou


def _encoded(sam: Sam, logits: Tensor, frame: InputFrame) -> Iterator[RLE]:
    room = max(1, _PIXELS_AT_ONCE // (frame.original[0] * frame.original[1]))
    for part in torch.split(logits.float(), room):
        upscaled = sam.postprocess(part, image_size=frame.size, original_size=frame.original)
        for bitmap in (upscaled[:, 0] > 0).to(torch.uint8).cpu().numpy():
            rle = coco_mask.encode(np.asfortranarray(bitmap))
            yield RLE(size=[int(n) for n in rle["size"]], counts=rle["counts"].decode("ascii"))
