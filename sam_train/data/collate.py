"""Samples -> `Batch`: images padded to the square, masks as one flat list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sam_train.errors import UserError
from sam_train.types import Batch, Sample


def collate(samples: Sequence[Sample], *, image_size: int) -> Batch:
    """One batch of B >= 1 samples; see `types.Batch` for shapes. Images are padded with zeros at
    the right and bottom."""
    # numpy copies on one thread; torch would wake its pool for each image, which in the training
    # process costs milliseconds under load.
    images = np.zeros((len(samples), 3, image_size, image_size), dtype=np.uint8)
    for image, sample in zip(images, samples, strict=True):
        height, width, _ = sample.image.shape
        image[:, :height, :width] = sample.image.transpose(2, 0, 1)
    counts = torch.tensor([len(s.masks) for s in samples])
    rles = [s.rles for s in samples if s.rles is not None]
    return Batch(
        images=torch.from_numpy(images),
        image_sizes=torch.tensor([s.image.shape[:2] for s in samples]),
        original_sizes=torch.tensor([s.original_size for s in samples]),
        masks=torch.from_numpy(np.concatenate([s.masks for s in samples])),
        image_index=torch.repeat_interleave(torch.arange(len(samples)), counts),
        points=torch.from_numpy(np.concatenate([s.points for s in samples])),
        boxes=torch.from_numpy(np.concatenate([s.boxes for s in samples])),
        mask_ids=torch.from_numpy(np.concatenate([s.mask_ids for s in samples])),
        keys=[s.key for s in samples],
        positions=[s.position for s in samples],
        rles=[rle for of_sample in rles for rle in of_sample] if rles else None,
    )


class Collator:
    """`collate` as a DataLoader calls it, in the worker."""

    def __init__(self, image_size: int) -> None:
        self._image_size = image_size

    def __call__(self, samples: Sequence[Sample | UserError | None]) -> Batch | UserError | None:
        """The batch of what is usable; None if nothing is; an error if there is one."""
        usable: list[Sample] = []
        for sample in samples:
            if isinstance(sample, UserError):
                return sample
            if sample is not None:
                usable.append(sample)
        return collate(usable, image_size=self._image_size) if usable else None
