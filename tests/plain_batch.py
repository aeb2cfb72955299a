"""A batch whose points and boxes are all alike."""

from __future__ import annotations

import torch

from sam_train.types import Batch


def batch_of(M: int) -> Batch:
    """M masks with one point and one box, on one photo of 100 x 100."""
    size = torch.tensor([[100, 100]])
    return Batch(
        images=torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
        image_sizes=size,
        original_sizes=size,
        masks=torch.zeros(M, 1, 1, dtype=torch.uint8),
        image_index=torch.zeros(M, dtype=torch.int64),
        points=torch.tensor([[25.0, 40.0]]).expand(M, 2),
        boxes=torch.tensor([[10.0, 20.0, 40.0, 60.0]]).expand(M, 4),
        mask_ids=torch.arange(M),
        keys=[""],
        positions=[0],
    )
