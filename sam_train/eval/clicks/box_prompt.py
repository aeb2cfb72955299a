"""Boxes to masks on shards: IoU of what the exact box of each mask gives, without a click."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from sam_train.masks.error_region import Bitmap, mask_iou
from sam_train.model import Sam
from sam_train.model.encoded_photos import EncodedPhotos, box_prompts
from sam_train.types import Batch


@dataclass(slots=True, kw_only=True)
class BoxResult:
    """The mask for one box, as an observer sees it."""

    batch: Batch
    """The batch on the device, with `rles`."""
    batch_number: int
    """Number of the batch in the evaluation, from 0."""
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
    """Measure the most confident answer to the exact box of each mask.

    The ground truth's box has no noise of training. As a single prompt it asks for three masks
    like round 0 of training, or for one without `multimask`. IoU is at the original resolution.

    Args:
        sam: in eval mode.
        batch: with `rles`, on the model's device.
        embeddings: of its images, [B, C, h, w].
        multimask: `prompts.multimask_first_round` of the training.
        max_masks: decoded at once; bounds memory.
        observer: sees every mask.
        batch_number: reported to the observer.

    Returns:
        IoU [M].

    Raises:
        ValueError: a batch without rles.
    """
    if batch.rles is None:
        raise ValueError("evaluation by boxes needs batches that carry their RLEs")
    photos = EncodedPhotos.of_batch(sam, batch, embeddings)
    owners = batch.image_index.tolist()  # once: each copy from the device waits for it
    found = np.zeros(batch.num_masks)
    for start in range(0, batch.num_masks, max_masks):
        part = slice(start, start + max_masks)
        answer = photos.decode(
            box_prompts(batch.boxes[part]), batch.image_index[part], multimask=multimask
        )
        surest = answer.iou.float().max(dim=1)
        rows = torch.arange(len(surest.indices), device=surest.indices.device)
        logits = answer.mask_logits[rows, surest.indices][:, None]
        measured = zip(photos.bitmaps(logits, owners[part]), surest.values.tolist(), strict=True)
        for k, ((mask,), iou) in enumerate(measured, start):
            # pycocotools returns column-major arrays; the kernel walks rows.
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
