"""Modules traced for annotation tools: an encoder that takes the bare photo, and its decoder.

samexporter, AnyLabeling and X-AnyLabeling scale photos and prompts to a frame of 1024 pixels,
whatever the model. Both graphs map that frame to the model's own input.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.export.onnx_graphs import DecoderGraph
from sam_train.model.sam import Sam
from sam_train.types import ABSENT, BOX_TOP_LEFT, PAD

FRAME = 1024
"""Longest side of a photo as the tools scale it."""
MASK_SIDE = 256
"""Side of the logits that they feed back."""


class PairEncoder(nn.Module):
    """A photo of any shape up to 1024 x 1024 to embeddings.

    The photo is scaled to the model's input, normalised and padded inside the graph.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, input_image: Tensor) -> Tensor:
        """Encode float32 [H, W, 3] RGB of 0 to 255: [1, C, h', w']."""
        S = self.sam.image_size
        pixels = input_image.permute(2, 0, 1)
        height, width = (_length(n) for n in input_image.shape[:2])
        if S == FRAME:
            # The general way would be a product with the identity.
            rows, columns = input_image.shape[:2]
            pixels = F.pad(pixels, (0, S - columns, 0, S - rows))
        else:
            height, by_row = self._antialiased(height, input_image.shape[0])
            width, by_column = self._antialiased(width, input_image.shape[1])
            # Pillow scales along rows first and rounds to whole levels after each axis.
            pixels = torch.floor(pixels @ by_column.T + 0.5)
            pixels = torch.floor(by_row @ pixels + 0.5)
        sizes = torch.stack([height, width])[None].to(torch.int64)
        return self.sam.encode(pixels[None], sizes)

    def _antialiased(self, length: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Compute the scaled length, and weights of `steps` pixels for each of S: [S, steps].

        The weights are those of Pillow's bilinear filter: a triangle as wide as the scale.
        """
        S = self.sam.image_size
        inside = torch.floor(length * (S / FRAME) + 0.5).clamp(min=1)
        scale = length / inside
        centres = (torch.arange(S) + 0.5) * scale
        distance = (torch.arange(steps) + 0.5)[None] - centres[:, None]
        weights = (1 - distance.abs() / scale.clamp(min=1)).clamp(min=0)
        # Rows beyond the photo see nothing of it; the encoder zeroes them.
        total = weights.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return inside, weights / total


class PairDecoder(DecoderGraph):
    """A prompt in the frame of 1024 pixels: the one best mask, which is all that the tools show."""

    all_present = False

    def __init__(self, sam: Sam) -> None:
        super().__init__(sam, single_mask=True, stability_score=False)

    def forward(  # noqa: PLR0917 (the order of the reference's inputs)
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer one prompt, with `mask_input` and low_res_masks of 256 x 256."""
        g = self.sam.grid_size
        scale = self._inside(orig_im_size) / _framed(orig_im_size)
        # The tools add padding to boxes, too. SAM never saw that in training: hide it.
        box = (point_labels >= BOX_TOP_LEFT).any(dim=1, keepdim=True)
        labels = torch.where(box & (point_labels == PAD), float(ABSENT), point_labels)
        masks, scores, logits = super().forward(
            image_embeddings,
            point_coords * scale.flip(0),
            labels,
            _square(mask_input, g),
            has_mask_input,
            orig_im_size,
        )
        return masks, scores, _square(logits, MASK_SIDE)

    def _inside(self, size: Tensor) -> Tensor:
        # The encoder sees only the scaled photo, so its size is rounded twice.
        return torch.floor(_framed(size) * (self.sam.image_size / FRAME) + 0.5).clamp(min=1)


def _framed(size: Tensor) -> Tensor:
    """Compute the size of a photo of [2] (H, W) in the frame of 1024 pixels."""
    return torch.floor(size * (FRAME / size.max()) + 0.5).clamp(min=1)


def _length(steps: Any) -> Tensor:
    """Return a length that the graph knows only at run time as a number, a float scalar."""
    return torch.arange(steps)[-1].to(torch.float32) + 1


def _square(logits: Tensor, side: int) -> Tensor:
    """Scale square logits to `side`."""
    if logits.shape[-1] == side:
        return logits
    return F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
