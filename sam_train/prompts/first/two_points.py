"""Two clicks at once: both on the object, or one on it and one beside it.

Two points fill the two tokens of a first prompt. More clicks come one by one, in the rounds that
follow, where each answers an error; so no mask of a batch needs more tokens than the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sam_train.masks.grid import cell_to_input, valid_grid
from sam_train.prompts.clicks import uniform_click
from sam_train.prompts.first.base import FIRST_PROMPTS, FirstPrompt
from sam_train.prompts.rng import Draw, Stream
from sam_train.types import BACKGROUND, FOREGROUND, PAD, Batch, Prompts

_REACH = 0.5
"""A click beside an object is this far from its box at most, in sides of the box."""


@FIRST_PROMPTS.named("two_points")
class TwoPoints(FirstPrompt):
    """The sample's exact point, and another that is uniform over the mask's cells."""

    def draw(self, batch: Batch, draw: Draw) -> Prompts:
        """Place both points, each foreground."""
        region = (batch.masks != 0) & _valid(batch)
        return _with_second(batch, region, draw=draw, label=FOREGROUND)


@FIRST_PROMPTS.named("point_and_negative")
class PointAndNegative(FirstPrompt):
    """The sample's exact point, and a background point near the object.

    People say what they do not mean close to what they mean: on the neighbour that came along. A
    mask that leaves no cell around it keeps the one point.
    """

    def draw(self, batch: Batch, draw: Draw) -> Prompts:
        """Place a foreground and a background point."""
        region = (batch.masks == 0) & _valid(batch) & _around(batch)
        return _with_second(batch, region, draw=draw, label=BACKGROUND)


def _valid(batch: Batch) -> Tensor:
    return valid_grid(
        batch.image_sizes,
        batch.image_index,
        grid=batch.masks.shape[-1],
        image_size=batch.images.shape[-1],
    )


def _around(batch: Batch) -> Tensor:
    """Mark the cells whose centres lie in each mask's box or near it: bool [M, R, R]."""
    cells = batch.masks.shape[-1]
    cell = batch.images.shape[-1] / cells
    # Pixel indices, as boxes are.
    centres = (torch.arange(cells, device=batch.boxes.device) + 0.5) * cell - 0.5
    sides = batch.boxes[:, 2:] - batch.boxes[:, :2]
    # At least a cell and a half, so that a cell lies beside the smallest object, too.
    reach = (_REACH * sides).clamp(min=1.5 * cell)
    low, high = batch.boxes[:, :2] - reach, batch.boxes[:, 2:] + reach
    inside = (centres >= low[..., None]) & (centres <= high[..., None])
    # [M, 2, R] of x and y; rows are y.
    return inside[:, 1, :, None] & inside[:, 0, None, :]


def _with_second(batch: Batch, region: Tensor, *, draw: Draw, label: int) -> Prompts:
    """Put a second point, uniform over bool [M, R, R] `region`, behind the sample's own."""
    cells = uniform_click(region, draw.uniform(Stream.SECOND_POINT)[:, 0])
    second = cell_to_input(cells.cell, grid=region.shape[-1], image_size=batch.images.shape[-1]).to(
        batch.points.dtype
    )
    labels = batch.image_index.new_full((batch.num_masks, 2), FOREGROUND)
    # An empty region has no click: PAD, as behind a single point.
    labels[:, 1] = torch.where(cells.found, label, PAD)
    return Prompts(coords=torch.stack([batch.points, second], dim=1), labels=labels)
