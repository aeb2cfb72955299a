"""A click on the object (paper A, "Training algorithm" 1)."""

from __future__ import annotations

import torch

from sam_train.prompts.first.base import FIRST_PROMPTS, FirstPrompt
from sam_train.prompts.rng import Draw
from sam_train.types import FOREGROUND, PAD, Batch, Prompts


@FIRST_PROMPTS.named("point")
class PointPrompt(FirstPrompt):
    """A foreground point, uniform over the mask.

    The point comes drawn with the sample, from the run lengths: the exact mask never leaves the
    CPU, and small objects would vanish on the grid.
    """

    def draw(self, batch: Batch, draw: Draw) -> Prompts:
        """Place the sample's point in the first token; the second is PAD."""
        labels = batch.image_index.new_full((batch.num_masks, 2), PAD)
        # A fill, not a list: a tensor made of a list on the host would wait for the device.
        labels[:, 0].fill_(FOREGROUND)
        coords = torch.stack([batch.points, torch.zeros_like(batch.points)], dim=1)
        return Prompts(coords=coords, labels=labels)
