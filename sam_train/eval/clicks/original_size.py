"""Logits to masks of the photo's own size, in groups that fit memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sam_train.masks.error_region import Bitmap
from sam_train.model import Sam

# Upscaled logits held at once; 2^26 float32 are 256 MiB, a dozen masks of SA-1B's 1500 x 2250.
_PIXELS_AT_ONCE = 1 << 26


def at_original_size(
    sam: Sam,
    logits: Tensor,
    *,
    owners: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    originals: Sequence[tuple[int, int]],
) -> Iterator[list[Bitmap]]:
    """Yield the K masks of each of m prompts, thresholded at 0.

    Args:
        sam: for the way from logits to the original frame.
        logits: [m, K, g, g].
        owners: m image numbers, neighbours of one image together.
        sizes: (h, w) of each image's photo in the input frame.
        originals: (H, W) of each image.

    Yields:
        K times uint8 [H, W].
    """
    slot = 0
    while slot < len(owners):
        image = owners[slot]
        height, width = originals[image]
        room = max(1, _PIXELS_AT_ONCE // (height * width * logits.shape[1]))
        end = slot + 1
        while end < min(len(owners), slot + room) and owners[end] == image:
            end += 1
        upscaled = sam.postprocess(
            logits[slot:end].float(), image_size=sizes[image], original_size=(height, width)
        )
        for bitmaps in (upscaled > 0).to(torch.uint8).cpu().numpy():
            yield list(bitmaps)
        slot = end
