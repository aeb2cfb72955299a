"""Masks on a grid: which cells show the photo, coarser targets, cells as points, real IoU.

Shapes and frames: see `types`. Everything runs on the device of its inputs without a host sync.
"""

from __future__ import annotations

import torch
from torch import Tensor


def valid_grid(image_sizes: Tensor, image_index: Tensor, *, grid: int, image_size: int) -> Tensor:
    """Mark the cells whose centre lies in the photo, not in the padding right of or below it.

    Args:
        image_sizes: int64 [B, 2] (h, w) of the photos in the input frame.
        image_index: int64 [M].
        grid: side of the grid, g or R.
        image_size: S.

    Returns:
        bool [M, grid, grid].
    """
    # Edges of pixels here, from 0 to S, and not their indices: no half pixel is taken off.
    centres = (torch.arange(grid, device=image_sizes.device) + 0.5) * (image_size / grid)
    inside = centres < image_sizes[..., None]
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[image_index]


def to_grid(masks: Tensor, grid: int) -> Tensor:
    """Sample masks of the loss resolution at the cell centres of the coarser grid of the logits.

    They are sampled rather than averaged, as the loss grid itself is. A line thinner than a cell
    then survives as often as if the loss ran on the grid.

    Args:
        masks: [M, R, R] of {0, 1}, any dtype.
        grid: g, at most R. Where R is no multiple (patches of 14), the pixel that holds the centre
            counts.

    Returns:
        bool [M, g, g].
    """
    side = masks.shape[-1]
    if side % grid == 0:
        step = side // grid
        # With an even step the centre lies between two pixels, and the later one is taken.
        return masks[:, step // 2 :: step, step // 2 :: step] != 0
    cells = torch.arange(grid, device=masks.device)
    # In integers: a float could fall on either side of a pixel's edge.
    centres = torch.div((2 * cells + 1) * side, 2 * grid, rounding_mode="floor")
    return masks[:, centres[:, None], centres] != 0


def cell_to_input(cell: Tensor, *, grid: int, image_size: int) -> Tensor:
    """Return the centre of a cell as (x, y) pixel index of the input frame.

    Args:
        cell: int64 [..., 2] (row, column) on a grid of side `grid`.
        grid: g.
        image_size: S.

    Returns:
        float32 [..., 2] (x, y); -0.5 is the left edge of the first pixel.
    """
    return ((cell.flip(-1) + 0.5) * (image_size / grid) - 0.5).float()


def mask_iou(mask_logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Compute the real IoU of each predicted mask, thresholded at logit 0, among the valid cells.

    Args:
        mask_logits: [M, K, g, g].
        targets: bool [M, g, g].
        valid: bool [M, g, g].

    Returns:
        float32 [M, K]. It is 0 where both masks are empty: the object then vanished between the
        cells, and an empty answer must not teach the IoU head that it is a good one.
    """
    target = (targets & valid)[:, None]
    predicted = (mask_logits.detach() > 0) & valid[:, None]
    both = (predicted & target).flatten(2).sum(-1)
    either = (predicted | target).flatten(2).sum(-1)
    # Never 0 / 0, which would put a NaN into the loss.
    return both / either.clamp(min=1)
