"""The whole model: images to embeddings once, then any number of prompts on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.model.encoders.base import ImageEncoder
from sam_train.model.mask_decoder import MaskDecoder
from sam_train.model.prompt_encoder import PromptEncoder
from sam_train.types import Prediction, Prompts

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet's, RGB in 0 to 255 (the reference's values)."""


def _channels(values: tuple[float, ...], encoder: ImageEncoder) -> Tensor:
    """Return a value for each channel of the input, [channels, 1, 1]."""
    channels = encoder.in_channels
    # Bands that are not red, green and blue all have the mean of these.
    each = values if channels == 3 else (sum(values) / 3,) * channels
    return torch.tensor(each).view(channels, 1, 1)


class Sam(nn.Module):
    """Segment Anything: an image encoder, a prompt encoder and a mask decoder (paper §3).

    Its state dict has the names and shapes of `segment-anything` 1.0's.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        image_encoder: ImageEncoder,
        prompt_encoder: PromptEncoder,
        mask_decoder: MaskDecoder,
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.mask_decoder = mask_decoder
        for name, values in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STD)):
            # Not persistent, as in the reference: the names of both state dicts stay equal.
            self.register_buffer(name, _channels(values, image_encoder), persistent=False)

    @property
    def image_size(self) -> int:
        """S, the side of the input frame."""
        return self.image_encoder.image_size

    @property
    def grid_size(self) -> int:
        """g, the side of the decoder's logits."""
        return 4 * self.prompt_encoder.grid

    def preprocess(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """Normalise, then zero the padding (in this order, as in the paper).

        Args:
            images: uint8 [B, 3, S, S], RGB, photos at the top left; or another `in_channels`.
            image_sizes: int64 [B, 2] (h, w) of each photo inside the input frame.

        Returns:
            float32 [B, 3, S, S].
        """
        S = self.image_size
        if images.shape[-2:] != (S, S):
            raise ValueError(
                f"images of {tuple(images.shape[-2:])} for a model of {S} x {S}: scale the longest "
                f"side to {S} and pad, or build the model with that image_size"
            )
        # Comparing instead of slicing: slices would need the sizes on the host.
        steps = torch.arange(S, device=images.device)
        height, width = image_sizes.view(-1, 2, 1).unbind(1)
        inside = (steps < height)[:, None, :, None] & (steps < width)[:, None, None, :]
        # Zero after normalising: the padding is of the mean colour, not black (A).
        return (images - self.pixel_mean) / self.pixel_std * inside

    def encode(self, images: Tensor, image_sizes: Tensor, *, draws: Tensor | None = None) -> Tensor:
        """Encode images as `preprocess` takes them to [B, C, h, w].

        Args:
            images, image_sizes: as `preprocess` takes them.
            draws: float [B, units, branches], uniform in [0, 1), for drop path in training.
        """
        padded = self.preprocess(images, image_sizes)
        embeddings: Tensor = self.image_encoder(padded, draws=draws)
        return embeddings

    def decode(
        self,
        embeddings: Tensor,
        image_index: Tensor,
        prompts: Prompts,
        *,
        multimask: bool,
        all_present: bool = False,
    ) -> Prediction:
        """Answer M prompts on B encoded images.

        Args:
            embeddings: [B, C, h, w].
            image_index: int64 [M], the image of each prompt.
            prompts: M of them, input frame.
            multimask: K = 3 masks for a single ambiguous prompt, else 1.
            all_present: promises that no label is ABSENT, which spares the masking. Looking for
                it here would wait for the device.
        """
        prediction: Prediction = self.mask_decoder(
            embeddings,
            image_index=image_index,
            pe=self.prompt_encoder.dense_pe(),
            prompts=self.prompt_encoder(prompts),
            multimask=multimask,
            all_present=all_present,
        )
        return prediction

    def postprocess(
        self, logits: Tensor, *, image_size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor:
        """Scale one image's logits to its original frame.

        Args:
            logits: [M, K, g, g].
            image_size: (h, w) of the photo inside the input frame.
            original_size: (H, W) of the photo.

        Returns:
            [M, K, H, W] logits, scaled bilinearly to S, cropped and scaled again as the reference
            does, so that thresholding at 0 gives the same mask.
        """
        # The whole square first, padding included: scaling the crop alone would move its right
        # edge.
        S = self.image_size
        h, w = image_size
        # In two steps, as the reference: one step would move the threshold by a rounding.
        scaled = F.interpolate(logits, (S, S), mode="bilinear", align_corners=False)
        return F.interpolate(
            scaled[..., :h, :w], original_size, mode="bilinear", align_corners=False
        )
