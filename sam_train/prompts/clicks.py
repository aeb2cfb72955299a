"""Clicks on errors: pure functions on grids of logits, without a host sync.

Training clicks are uniform over the error region (paper A, "Training algorithm" 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sam_train.masks.grid import cell_to_input


@dataclass(slots=True, kw_only=True)
class Cells:
    """A cell of each of M regions."""

    cell: Tensor
    """int64 [M, 2] (row, column); some cell of the grid where the region is empty."""
    found: Tensor
    """bool [M]: the region has a cell at all."""


@dataclass(slots=True, kw_only=True)
class Clicks:
    """A click on each of M masks."""

    coords: Tensor
    """float32 [M, 2] (x, y), input frame."""
    labels: Tensor
    """int64 [M] FOREGROUND (1) or BACKGROUND (0)."""


def uniform_click(region: Tensor, u: Tensor) -> Cells:
    """Choose the cell of rank floor(u * area) of each region in row-major order: uniform over it.

    The rank is searched among the rows first and then within its row. This is exact, and takes one
    pass over the region instead of a cumulative sum over all of it.

    Args:
        region: bool [M, g, g].
        u: float [M] in [0, 1).
    """
    M, g, _ = region.shape
    row_ends = region.sum(-1).cumsum(-1)
    area = row_ends[:, -1:]
    # The minimum: u * area may round up to the area itself. It is -1 in an empty region, whose
    # click is then cell (0, 0), so that no rank ever lies behind the last row or column.
    rank = torch.minimum((u[:, None] * area).long(), area - 1)
    # right=True: the first row whose end lies beyond the rank, so empty rows are passed over.
    row = torch.searchsorted(row_ends, rank, right=True)
    # The clamp makes row 0 gather its own end; the factor takes that back to nothing.
    before = row_ends.gather(1, (row - 1).clamp(min=0)) * (row > 0)
    line = region.gather(1, row[..., None].expand(M, 1, g))[:, 0]
    column = torch.searchsorted(line.cumsum(-1), rank - before, right=True)
    return Cells(cell=torch.cat([row, column], dim=1), found=area[:, 0] > 0)


def error_region(mask_logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Mark the cells where the prediction, thresholded at logit 0, is wrong; never the padding.

    Args:
        mask_logits: [M, g, g].
        targets: bool [M, g, g].
        valid: bool [M, g, g], see `grid.valid_grid`.

    Returns:
        bool [M, g, g].
    """
    return ((mask_logits > 0) != targets) & valid


def error_click(
    mask_logits: Tensor,
    *,
    targets: Tensor,
    valid: Tensor,
    points: Tensor,
    u: Tensor,
    image_size: int,
) -> Clicks:
    """Draw one click, uniform over the error region: foreground on a missed cell, else background.

    The paper is silent on a perfect mask, which has no error region. Its click is drawn from the
    ground truth, as foreground. An object that vanished between the cells gets its exact point.

    Args:
        mask_logits: [M, g, g].
        targets: bool [M, g, g].
        valid: bool [M, g, g].
        points: float32 [M, 2] (x, y), input frame: a pixel of each object.
        u: float64 [M] in [0, 1).
        image_size: S.
    """
    errors = error_region(mask_logits, targets, valid)
    # torch.where, not `if`: to ask whether any mask is perfect would wait for the device.
    wrong = errors.flatten(1).any(1)
    region = torch.where(wrong[:, None, None], errors, targets & valid)
    cells = uniform_click(region, u)
    flat = cells.cell[:, 0] * targets.shape[-1] + cells.cell[:, 1]
    missed = targets.flatten(1).gather(1, flat[:, None])[:, 0]
    coords = cell_to_input(cells.cell, grid=targets.shape[-1], image_size=image_size)
    # The centre of a cell lies between pixels: half-integer coordinates, without the half pixel.
    return Clicks(
        coords=torch.where(cells.found[:, None], coords, points),
        # Without a cell the click is the object's own point, which is foreground.
        labels=(missed | ~cells.found).long(),
    )
