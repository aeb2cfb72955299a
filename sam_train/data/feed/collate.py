"""Samples -> `Batch`: images padded to the square, masks as one flat list."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sam_train.data.feed.slots import Parcel, SharedSlots
from sam_train.errors import UserError
from sam_train.runtime.fingerprint import pixels_fingerprint
from sam_train.types import Batch, Sample


def collate(
    samples: Sequence[Sample],
    *,
    image_size: int,
    memory: Tensor | None = None,
    hashed: bool = False,
) -> Batch:
    """Join samples to one batch of B >= 1; see `types.Batch` for shapes. Images are padded with
    zeros at the right and bottom.

    Args:
        memory: uint8 [block_size(samples)], where images and behind them masks are written; None:
            memory of the batch's own.
        hashed: hash each photo's pixels, for a cache of embeddings.
    """
    if memory is None:
        memory = torch.empty(block_size(samples, image_size=image_size), dtype=torch.uint8)
    counts = torch.tensor([len(s.masks) for s in samples])
    # [B, 3, S, S] uint8: normalised on the device, where it is free. More bands, more channels.
    shape = (len(samples), samples[0].image.shape[2], image_size, image_size)
    grid_size = samples[0].masks.shape[-1]
    # Views, not copies: the block may be shared memory that a worker fills.
    images = memory[: math.prod(shape)].view(shape)
    masks = memory[math.prod(shape) :].view(-1, grid_size, grid_size)
    # numpy copies on one thread; torch would wake its pool for each image, which in the training
    # process costs milliseconds under load.
    for image, sample in zip(images.numpy(), samples, strict=True):
        height, width, _ = sample.image.shape
        image[:, :height, :width] = sample.image.transpose(2, 0, 1)
        # The block holds an earlier batch: only the padding is cleared, the rest is overwritten.
        image[:, height:] = 0
        image[:, :height, width:] = 0
    np.concatenate([s.masks for s in samples], out=masks.numpy())
    rles = [s.rles for s in samples if s.rles is not None]
    return Batch(
        images=images,
        image_sizes=torch.tensor([s.image.shape[:2] for s in samples]),
        original_sizes=torch.tensor([s.original_size for s in samples]),
        masks=masks,
        # Masks are one flat list: mask m belongs to image image_index[m].
        image_index=torch.repeat_interleave(torch.arange(len(samples)), counts),
        points=torch.from_numpy(np.concatenate([s.points for s in samples])),
        boxes=torch.from_numpy(np.concatenate([s.boxes for s in samples])),
        mask_ids=torch.from_numpy(np.concatenate([s.mask_ids for s in samples])),
        keys=[s.key for s in samples],
        positions=[s.position for s in samples],
        rles=[rle for of_sample in rles for rle in of_sample] if rles else None,
        image_hashes=[pixels_fingerprint(s.image) for s in samples] if hashed else None,
    )


def block_size(samples: Sequence[Sample], *, image_size: int) -> int:
    """Return the bytes of the images and masks of a batch."""
    channels = int(samples[0].image.shape[2])
    return len(samples) * channels * image_size**2 + sum(s.masks.size for s in samples)


class Collator:
    """`collate` as a DataLoader calls it, in the worker.

    Args:
        image_size: S.
        slots: blocks of shared memory that each worker writes its batches into, see
            `slots.slots_needed`; 0: each batch has memory of its own.
        hashed: as `collate` takes it.
    """

    def __init__(self, image_size: int, *, slots: int = 0, hashed: bool = False) -> None:
        self._image_size = image_size
        self._hashed = hashed
        self._slots = SharedSlots(slots) if slots else None

    def __call__(
        self, samples: Sequence[Sample | UserError | None]
    ) -> Batch | Parcel | UserError | None:
        """Collate the usable samples; return None if there is none, and an error if there is
        one."""
        usable: list[Sample] = []
        for sample in samples:
            # It takes the place of the batch, and is raised in the main process.
            if isinstance(sample, UserError):
                return sample
            if sample is not None:
                usable.append(sample)
        if not usable:
            return None
        if self._slots is None:
            return collate(usable, image_size=self._image_size, hashed=self._hashed)
        block = self._slots.take(block_size(usable, image_size=self._image_size))
        # Written straight into shared memory: the batch is never copied inside the worker.
        batch = collate(usable, image_size=self._image_size, memory=block, hashed=self._hashed)
        return Parcel.of(batch, block)
