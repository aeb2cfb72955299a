"""An edge map of SAM's mask probabilities (paper §7.3 and D.2), on any device."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

# An edge survives unless a neighbour across it is stronger by more than this. Without it rounding
# would erase both of two equal lines (Dollar and Zitnick's edge NMS allows the same 1 %).
_CONSERVATIVE = 1.01


def edge_map(probabilities: Tensor | Iterable[Tensor], *, masks_at_once: int = 16) -> Tensor:
    """Measure the strength of the edge at each pixel.

    A mask's edge is the Sobel magnitude of its unthresholded probabilities on its outer boundary.
    The pixel-wise maximum over masks is normalised linearly to [0, 1]; edge NMS follows.

    Args:
        probabilities: float [K, H, W] in [0, 1], the masks after NMS, or one or more of these of
            one photo. Above 0.5 is inside.
        masks_at_once: bounds the memory of the gradients.

    Returns:
        float32 [H, W] on the same device; all zero where no mask has an edge.

    Raises:
        ValueError: the shape is not [K, H, W].
    """
    strength = across = torch.zeros(0)
    for part in [probabilities] if isinstance(probabilities, Tensor) else probabilities:
        if part.ndim != 3:
            raise ValueError(f"probabilities are {tuple(part.shape)}, not [K, H, W]")
        if not strength.numel():
            strength = torch.zeros(part.shape[1:], device=part.device)
            across = torch.zeros(2, *part.shape[1:], device=part.device)
        for chunk in torch.split(part, masks_at_once) if len(part) else ():
            strength, across = _stronger(strength, across, chunk.float())
    if not strength.numel():
        raise ValueError("no probabilities")
    # The clamp keeps a map without an edge at 0, where 0 / 0 would be NaN.
    low, high = strength.aminmax()
    normalised = (strength - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return edge_nms(normalised, across)


def _stronger(strength: Tensor, across: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixel-wise maximum with the edges of more masks, and its winner's gradient."""
    gradient = sobel(values)
    magnitude = gradient.norm(dim=1) * outer_boundary(values > 0.5)
    strongest, mask = magnitude.max(dim=0)
    # gather needs the index in every dimension: [1, 2, H, W] picks both components.
    winner = gradient.gather(0, mask.expand(1, 2, -1, -1))[0]
    better = strongest > strength
    return torch.where(better, strongest, strength), torch.where(better, winner, across)


def sobel(values: Tensor) -> Tensor:
    """Return Sobel gradients, [K, H, W] to [K, 2 (x, y), H, W]; border pixels are replicated."""
    smooth = values.new_tensor([1.0, 2.0, 1.0])
    change = values.new_tensor([-1.0, 0.0, 1.0])
    kernels = torch.stack([torch.outer(smooth, change), torch.outer(change, smooth)])[:, None]
    return F.conv2d(F.pad(values[:, None], (1, 1, 1, 1), mode="replicate"), kernels)


def outer_boundary(masks: Tensor) -> Tensor:
    """Return the pixels outside a mask that share a side with it: bool [K, H, W] of the same.

    Corners do not count, which gives the thinnest closed line, as scikit-image's "outer" mode.
    """
    near = masks.clone()
    near[:, 1:] |= masks[:, :-1]
    near[:, :-1] |= masks[:, 1:]
    near[:, :, 1:] |= masks[:, :, :-1]
    near[:, :, :-1] |= masks[:, :, 1:]
    return near & ~masks


def edge_nms(strength: Tensor, across: Tensor) -> Tensor:
    """Zero every pixel that is weaker than the edge one pixel to either side of it (Canny 1986).

    The paper cites Canny, so the direction across an edge is the gradient of the mask that won the
    pixel. That direction is exact and has nothing to tune. Dollar and Zitnick's edge NMS is made
    for detectors that give strengths alone. It estimates the direction from second derivatives of
    a smoothed map and fades the 5 pixels along the border, which SAM's maps do not need.

    Args:
        strength: float32 [H, W].
        across: float32 [2 (x, y), H, W], of any length; (0, 0) where there is no edge.

    Returns:
        float32 [H, W].
    """
    height, width = strength.shape
    step = F.normalize(across, dim=0)
    y, x = torch.meshgrid(
        torch.arange(height, device=strength.device),
        torch.arange(width, device=strength.device),
        indexing="ij",
    )
    keep = torch.ones_like(strength, dtype=torch.bool)
    for sign in (-1, 1):
        beside = _interpolate(strength, x + sign * step[0], y + sign * step[1])
        keep &= strength * _CONSERVATIVE >= beside
    return strength * keep


def _interpolate(values: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Interpolate bilinearly at pixel coordinates [H, W], clamped to the image."""
    height, width = values.shape
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.long(), y.long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    u, v = x - left, y - top
    upper = values[top, left] * (1 - u) + values[top, right] * u
    lower = values[bottom, left] * (1 - u) + values[bottom, right] * u
    return upper * (1 - v) + lower * v
