"""Photos to embeddings to masks, as tensors: the way that every user of a trained model takes.

`Predictor` shows it to people as arrays. `generate` and the evaluation tasks need many photos or
crops at once, thousands of prompts, and logits rather than masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam_train.masks.frame import InputFrame
from sam_train.model.sam import Sam
from sam_train.types import (
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    PAD,
    Batch,
    Prediction,
    Prompts,
)

Pixels = npt.NDArray[np.uint8]

# Upscaled logits held at once; 2^26 float32 are 256 MiB, a dozen masks of SA-1B's 1500 x 2250.
_PIXELS_AT_ONCE = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPhotos:
    """B photos that a model has encoded, ready for any number of prompts."""

    sam: Sam
    embeddings: Tensor
    """[B, C, h, w]."""
    sizes: Sequence[tuple[int, int]]
    """B times (h, w) of the photo inside the input frame."""
    originals: Sequence[tuple[int, int]]
    """B times (H, W) of the photo."""

    @classmethod
    def of_batch(cls, sam: Sam, batch: Batch, embeddings: Tensor) -> EncodedPhotos:
        """Wrap a batch's images, whose `embeddings` are known, and read their sizes once."""
        return cls(
            sam=sam,
            embeddings=embeddings,
            sizes=[(h, w) for h, w in batch.image_sizes.tolist()],
            originals=[(h, w) for h, w in batch.original_sizes.tolist()],
        )

    def decode(
        self,
        prompts: Prompts,
        owners: Tensor | None = None,
        *,
        multimask: bool,
        all_present: bool = False,
    ) -> Prediction:
        """Answer M prompts of the input frame, as `Sam.decode`.

        Args:
            prompts: on any device.
            owners: int64 [M], the photo of each prompt; None: the first photo's.
            multimask, all_present: as `Sam.decode` takes them.
        """
        device = self.embeddings.device
        if owners is None:
            owners = torch.zeros(len(prompts.labels), dtype=torch.int64)
        fed = prompts.mask_logits
        there = Prompts(
            coords=prompts.coords.to(device),
            labels=prompts.labels.to(device),
            mask_logits=None if fed is None else fed.to(device),
        )
        return self.sam.decode(
            self.embeddings, owners.to(device), there, multimask=multimask, all_present=all_present
        )

    def upscaled(
        self, logits: Tensor, owners: Sequence[int] | None = None, *, at_once: int | None = None
    ) -> Iterator[Tensor]:
        """Yield the logits of M prompts in the photo's own frame, in groups that fit memory.

        Args:
            logits: [M, K, g, g].
            owners: M photos, prompts of one photo side by side; None: the first photo's.
            at_once: most prompts in a group, where memory would allow more.

        Yields:
            float32 [m, K, H, W], m prompts of one photo.
        """
        owners = [0] * len(logits) if owners is None else owners
        begin = 0
        while begin < len(owners):
            # A group is of one photo: each photo has a size of its own to upscale to.
            photo = owners[begin]
            height, width = self.originals[photo]
            # On the way every mask is as large as the input square (`Sam.postprocess`).
            pixels = max(height * width, self.sam.image_size**2) * logits.shape[1]
            # One at least, even where a single prompt's masks exceed the bound.
            room = max(1, _PIXELS_AT_ONCE // pixels)
            # Memory and the caller's wish, whichever is smaller.
            last = min(len(owners), begin + min(room, at_once or room))
            end = begin + 1
            while end < last and owners[end] == photo:
                end += 1
            yield self.sam.postprocess(
                # Interpolated in bfloat16, logits near 0 would round and move the mask's border.
                logits[begin:end].float(),
                image_size=self.sizes[photo],
                original_size=(height, width),
            )
            begin = end

    def bitmaps(self, logits: Tensor, owners: Sequence[int] | None = None) -> Iterator[Pixels]:
        """Yield the K masks of each prompt, thresholded at 0: uint8 [K, H, W] of {0, 1}."""
        for group in self.upscaled(logits, owners):
            # Thresholded on the device: one byte a pixel is copied, not four.
            yield from (group > 0).to(torch.uint8).cpu().numpy()


def encode_photos(sam: Sam, photos: Sequence[Pixels]) -> EncodedPhotos:
    """Resize B photos, uint8 [H, W, 3] RGB of any sizes, and encode them as one batch."""
    device = sam.pixel_mean.device
    S = sam.image_size
    frames = [InputFrame(original=(p.shape[0], p.shape[1]), side=S) for p in photos]
    squares = [frame.square(photo) for frame, photo in zip(frames, photos, strict=True)]
    # Bytes go to the device, a quarter of what normalised floats would take.
    images = torch.from_numpy(np.stack(squares)).to(device)
    sizes = torch.tensor([frame.size for frame in frames]).to(device)
    return EncodedPhotos(
        sam=sam,
        embeddings=sam.encode(images, sizes),
        sizes=[frame.size for frame in frames],
        originals=[frame.original for frame in frames],
    )


def point_prompts(points: Tensor) -> Prompts:
    """Ask with one foreground point (x, y) for each of M masks: [M, 2], input frame.

    float64 stays: where the reference scales points in float64, the last bit can matter.
    """
    labels = torch.tensor([[FOREGROUND, PAD]], device=points.device)
    return Prompts(
        coords=torch.stack([points, torch.zeros_like(points)], dim=1),
        labels=labels.expand(len(points), 2),
    )


def box_prompts(boxes: Tensor) -> Prompts:
    """Ask with one box for each of M masks: x0 y0 x1 y1, [M, 4], input frame."""
    labels = torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]], device=boxes.device)
    return Prompts(coords=boxes.view(-1, 2, 2), labels=labels.expand(len(boxes), 2))


def split_prompts(prompts: Prompts, at_once: int) -> Iterator[Prompts]:
    """Yield at most `at_once` of M prompts at a time: decoding so many at once bounds memory."""
    for begin in range(0, len(prompts.labels), at_once):
        part = slice(begin, begin + at_once)
        fed = prompts.mask_logits
        yield Prompts(
            coords=prompts.coords[part],
            labels=prompts.labels[part],
            mask_logits=None if fed is None else fed[part],
        )


def check_photo(photo: Any, *, channels: int = 3) -> Pixels:
    """Return `photo` as an array.

    Raises:
        ValueError: not uint8 [H, W, channels], or empty.
    """
    pixels = np.asarray(photo)
    fits = pixels.ndim == 3 and pixels.shape[2] == channels and pixels.size > 0
    if not fits or pixels.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 [H, W, {channels}]{' RGB' if channels == 3 else ''}, not "
            f"{pixels.dtype} {list(pixels.shape)}"
        )
    return pixels
