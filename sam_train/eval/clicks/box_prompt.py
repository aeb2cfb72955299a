"""Boxes to masks on shards: IoU of what the exact box of each mask gives, without a click."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from sam_train.eval.clicks.original_size import at_original_size
from sam_train.masks.error_region import Bitmap, mask_iou
from sam_train.model import Sam
from sam_train.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, Batch, Prompts


@dataclass(slots=True, kw_only=True)
class BoxResult:
    """The mask that one box became; handed to an observer."""

    batch: Batch
    """On the device; carries `rles`."""
    batch_number: int
    """Of the evaluation, from 0."""
    mask_index: int
    """Flat index in the batch."""
    box: tuple[float, float, float, float]
    """x0 y0 x1 y1, input frame, inclusive."""
    mask: Bitmap
    """uint8 [H, W], original frame; the most confident of those asked for."""
    iou: float
    predicted_iou: float


BoxObserver = Callable[[BoxResult], None]


@torch.no_grad()
def measure_boxes(
    sam: Sam,
    batch: Batch,
    embeddings: Tensor,
    *,
    multimask: bool = True,
    max_masks: int = 64,
    observer: BoxObserver | None = None,
    batch_number: int = 0,
) -> npt.NDArray[np.float64]:
    """Prompt with the exact box of each mask and measure the most confident answer.

    The box is that of the ground truth, without the noise of training. It is a single prompt, so it
    asks for what round 0 of training asks for: three masks, or one without `multimask`. Masks are
    compared at the original resolution.

    Args:
        sam: in eval mode.
        batch: with `rles`, on the model's device.
        embeddings: of its images, [B, C, h, w].
        multimask: `prompts.multimask_first_round` of the training.
        max_masks: decoded at once; bounds memory.
        observer: sees every mask.
        batch_number: told to the observer.

    Returns:
        IoU [M].

    Raises:
        ValueError: a batch without rles.
    """
    if batch.rles is None:
        raise ValueError("evaluation by boxes needs batches that carry their RLEs")
    found = np.zeros(batch.num_masks)
    for start in range(0, batch.num_masks, max_masks):
        masks = slice(start, min(start + max_masks, batch.num_masks))
        bitmaps, predicted = _answers(sam, batch, embeddings, masks=masks, multimask=multimask)
        for k, mask, iou in zip(range(masks.start, masks.stop), bitmaps, predicted, strict=True):
            found[k] = mask_iou(mask, np.ascontiguousarray(coco_mask.decode(batch.rles[k])))
            if observer is not None:
                x0, y0, x1, y1 = batch.boxes[k].tolist()
                result = BoxResult(
                    batch=batch,
                    batch_number=batch_number,
                    mask_index=k,
                    box=(x0, y0, x1, y1),
                    mask=mask,
                    iou=float(found[k]),
                    predicted_iou=iou,
                )
                observer(result)
    return found


def _answers(
    sam: Sam, batch: Batch, embeddings: Tensor, *, masks: slice, multimask: bool
) -> tuple[list[Bitmap], list[float]]:
    """Return the most confident mask of each box, original frame, and its predicted IoU."""
    device = embeddings.device
    boxes = batch.boxes[masks].to(device)
    corner_labels = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], device=device)
    prompts = Prompts(coords=boxes.view(-1, 2, 2), labels=corner_labels.expand(len(boxes), 2))
    index = batch.image_index[masks].to(device)
    answer = sam.decode(embeddings, index, prompts, multimask=multimask)
    surest = answer.iou.float().max(dim=1)
    rows = torch.arange(len(boxes), device=device)
    bitmaps = at_original_size(
        sam,
        answer.mask_logits[rows, surest.indices][:, None],
        owners=batch.image_index.tolist()[masks],
        sizes=[(h, w) for h, w in batch.image_sizes.tolist()],
        originals=[(h, w) for h, w in batch.original_sizes.tolist()],
    )
    return [mask for (mask,) in bitmaps], surest.values.tolist()
