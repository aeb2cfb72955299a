"""Modules that are traced for ONNX: the image encoder, and the decoder with prompts and final
resizing.

The decoder's inputs and outputs are those of segment-anything's `SamOnnxModel`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.model.prompt_encoder import PromptEmbeddings
from sam_train.model.sam import Sam
from sam_train.types import Prompts

STABILITY_OFFSET = 1.0
"""Offset in logits (the reference's)."""


class EncoderGraph(nn.Module):
    """Photos, scaled and placed at the top left, to embeddings."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Encode uint8 [1, 3, S, S] with int64 [1, 2] (h, w) of the photo: [1, C, h', w']."""
        return self.sam.encode(images, image_sizes)


class DecoderGraph(nn.Module):
    """A prompt on one image: all four masks, or the best.

    Args:
        sam: the model.
        single_mask: choose the best mask.
        stability_score: in place of the predicted IoU.
    """

    rows: Tensor
    all_present = True
    """A promise that no label is ABSENT, which spares the masking."""

    def __init__(self, sam: Sam, *, single_mask: bool, stability_score: bool) -> None:
        super().__init__()
        self.sam = sam
        self.single_mask = single_mask
        self.stability_score = stability_score
        # Row i says what pixel row i of the input frame takes of each row of the logits.
        eye = torch.eye(sam.grid_size)[None]
        rows = F.interpolate(eye, sam.image_size, mode="linear", align_corners=False)[0].T
        self.register_buffer("rows", rows.contiguous(), persistent=False)

    def forward(  # noqa: PLR0917 (the order of the reference's inputs)
        self,
        image_embeddings: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer one prompt.

        Args:
            image_embeddings: [1, C, h, w].
            point_coords: float [1, N, 2] (x, y), input frame.
            point_labels: float [1, N]: 1 and 0 points, 2 and 3 box corners, -1 padding, which a
                prompt without a box needs.
            mask_input: [1, 1, g, g] logits of an earlier answer.
            has_mask_input: float [1]: 0 or 1, whether to look at them.
            orig_im_size: float [2] (H, W) of the photo.

        Returns:
            masks [1, K, H, W] logits, iou_predictions [1, K], low_res_masks [1, K, g, g].
        """
        prompts = Prompts(
            coords=point_coords, labels=point_labels.to(torch.int64), mask_logits=mask_input
        )
        answer = self.sam.mask_decoder(
            image_embeddings,
            image_index=torch.zeros(1, dtype=torch.int64),
            pe=self.sam.prompt_encoder.dense_pe(),
            prompts=self._embed(prompts, has_mask_input),
            multimask=None,
            all_present=self.all_present,
        )
        masks, scores = answer.mask_logits, answer.iou
        if self.stability_score:
            scores = stability(masks)
        if self.single_mask:
            masks, scores = _best(masks, scores, points=point_coords.shape[1])
        return self._upscale(masks, orig_im_size), scores, masks

    def _embed(self, prompts: Prompts, has_mask: Tensor) -> PromptEmbeddings:
        """Embed the prompts, with the mask's part switched by a number: a graph has no branches."""
        embedded: PromptEmbeddings = self.sam.prompt_encoder(prompts)
        assert embedded.dense_features is not None
        no_mask = self.sam.prompt_encoder.no_mask_embed.weight[0]
        return replace(
            embedded,
            dense_features=embedded.dense_features * has_mask,
            dense_bias=embedded.dense_bias * has_mask + no_mask * (1 - has_mask),
        )

    def _upscale(self, logits: Tensor, size: Tensor) -> Tensor:
        """Scale logits to the photo as `Sam.postprocess` does, by two products.

        Both steps are linear, one axis at a time, and no size but the result's depends on data.
        """
        inside = self._inside(size)
        height, width = size.to(torch.int64).tolist()
        by_row = self._resampled(height, inside[0])
        by_column = self._resampled(width, inside[1])
        return by_row @ logits @ by_column.T

    def _inside(self, size: Tensor) -> Tensor:
        """Compute the size of a photo of [2] (H, W) inside the input frame."""
        # Rounded in float32, as the reference's graph does.
        return torch.floor(size * (self.sam.image_size / size.max()) + 0.5)

    def _resampled(self, length: int, inside: Tensor) -> Tensor:
        """Weigh each row of the logits for each of `length` rows of the photo: [length, g].

        The photo covers the first `inside` rows of the input frame.
        """
        place = ((torch.arange(length) + 0.5) * (inside / length) - 0.5).clamp(min=0)
        first = torch.minimum(place.floor(), inside - 1)
        second = torch.minimum(first + 1, inside - 1)
        share = (place - first)[:, None]
        above, below = self.rows[first.to(torch.int64)], self.rows[second.to(torch.int64)]
        return above * (1 - share) + below * share


def stability(masks: Tensor) -> Tensor:
    """Compute the IoU of each mask cut above and below the threshold: [1, K, g, g] to [1, K]."""
    smaller = (masks > STABILITY_OFFSET).sum((2, 3)).float()
    return smaller / (masks > -STABILITY_OFFSET).sum((2, 3)).float()


def _best(masks: Tensor, scores: Tensor, *, points: int) -> tuple[Tensor, Tensor]:
    """Choose the first mask for over two points (padding counts), else the best other."""
    # A number that decides, rather than a branch, which a graph has not.
    first = torch.zeros_like(scores)
    first[:, 0] = 1000.0
    best = (scores + (points - 2.5) * first).argmax(dim=1)
    return masks[:, best], scores[:, best]
