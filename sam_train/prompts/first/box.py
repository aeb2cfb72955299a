"""A box as a person would draw it (paper A, "Training algorithm" 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from sam_train.prompts.config import NoiseLimit, PromptsConfig
from sam_train.prompts.first.base import FIRST_PROMPTS, FirstPrompt
from sam_train.prompts.rng import Draw, Stream
from sam_train.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, Batch, Prompts


@FIRST_PROMPTS.named("box")
class BoxPrompt(FirstPrompt):
    """The mask's box with noise: 10 % of the side, at most 20 pixels (A)."""

    is_box = True

    def draw(self, batch: Batch, draw: Draw) -> Prompts:
        """Place the corners of a noisy box in the two tokens, top left first."""
        corners = noisy_boxes(
            batch.boxes,
            image_sizes=batch.image_sizes[batch.image_index],
            cfg=self.cfg,
            draw=draw,
        )
        labels = batch.image_index.new_full((batch.num_masks, 2), BOX_TOP_LEFT)
        labels[:, 1].fill_(BOX_BOTTOM_RIGHT)
        return Prompts(coords=corners.view(-1, 2, 2), labels=labels)


def noisy_boxes(boxes: Tensor, *, image_sizes: Tensor, cfg: PromptsConfig, draw: Draw) -> Tensor:
    """Add noise to boxes as a person would draw them.

    Args:
        boxes: float32 [M, 4] x0 y0 x1 y1, input frame.
        image_sizes: int64 [M, 2] (h, w) of each mask's photo in the input frame.
        cfg: noise and its limit.
        draw: the step's random numbers.

    Returns:
        float32 [M, 4] within the photo, top left before bottom right.
    """
    limit = cfg.box_noise_limit
    # Sides from pixel index to pixel index: x1 belongs to the box, so a side is one pixel longer.
    deviation = cfg.box_noise * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    # The paper's wording leaves open which of the two is limited (A, step 1).
    if cfg.box_noise_limits == NoiseLimit.deviation:
        deviation = deviation.clamp(max=limit)
    noise = draw.normal(Stream.BOX_NOISE, count=4).float() * deviation
    if cfg.box_noise_limits == NoiseLimit.draw:
        noise = noise.clamp(-limit, limit)
    corners = (boxes + noise).view(-1, 2, 2)
    # image_sizes are (h, w), corners (x, y).
    farthest = (image_sizes.flip(-1) - 1)[:, None].to(corners.dtype)
    corners = torch.minimum(corners.clamp(min=0), farthest)
    # Noise can swap the corners of a narrow box.
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)
