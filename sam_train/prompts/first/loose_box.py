"""A box that is drawn around the object and never across it, as MedSAM trains (Ma et al. 2024)."""

from __future__ import annotations

import torch

from sam_train.prompts.first.base import FIRST_PROMPTS, FirstPrompt
from sam_train.prompts.rng import Draw, Stream
from sam_train.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, Batch, Prompts


@FIRST_PROMPTS.named("loose_box")
class LooseBox(FirstPrompt):
    """The mask's box with each side moved outward, by 0 to `box_outward` pixels.

    The kind `box` is as often too small as too large; people who are told to draw around an object
    make it too large.
    """

    is_box = True

    def draw(self, batch: Batch, draw: Draw) -> Prompts:
        """Place the corners of a loose box in the two tokens, top left first."""
        # Whole pixels with both ends, each as likely.
        moved = (draw.uniform(Stream.LOOSE_BOX, count=4) * (self.cfg.box_outward + 1)).floor()
        low, high = (batch.boxes.double() + torch.cat([-moved[:, :2], moved[:, 2:]], dim=1)).chunk(
            2, dim=1
        )
        # image_sizes are (h, w), corners (x, y).
        farthest = batch.image_sizes[batch.image_index].flip(-1) - 1
        corners = torch.stack([low.clamp(min=0), torch.minimum(high, farthest)], dim=1)
        labels = batch.image_index.new_full((batch.num_masks, 2), BOX_TOP_LEFT)
        labels[:, 1].fill_(BOX_BOTTOM_RIGHT)
        return Prompts(coords=corners.to(batch.boxes.dtype), labels=labels)
