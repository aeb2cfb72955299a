"""The shared memory by which a worker's batches reach the training process.

torch puts each tensor of a worker into a new piece of shared memory. For a photo and 64 masks that
is 7 MB, or 1,700 pages to be zeroed and mapped on either side and given back at once. It costs a
third of what the sample itself costs. Here a worker writes its batches in turn into a few blocks
that stay. The training process copies each block before it asks for the next batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sam_train.runtime.allocator import keep_freed_memory
from sam_train.types import Batch

# The two large tensors; everything else of a batch is a few kilobytes.
_IN_BLOCK = ("images", "masks")


def slots_needed(prefetch: int) -> int:
    """Return the blocks per worker that suffice so that none is overwritten before its batch is
    copied.

    A worker has at most `prefetch` batches to make or waiting. The next is asked for when the
    oldest is handed out, which is just before `Receiver.take` copies it: that is one more.
    """
    return prefetch + 1


class SharedSlots:
    """Blocks of shared memory in turn, each as large as the largest batch that it has held."""

    def __init__(self, number: int) -> None:
        self._blocks = [torch.empty(0, dtype=torch.uint8)] * number
        self._turn = 0

    def take(self, size: int) -> Tensor:
        """Take the next block, uint8 [size]; it still holds the bytes of an earlier batch."""
        turn = self._turn
        self._turn = (turn + 1) % len(self._blocks)
        # Blocks only grow: the number of masks differs from batch to batch.
        if self._blocks[turn].numel() < size:
            self._blocks[turn] = torch.empty(size, dtype=torch.uint8)
            self._blocks[turn].share_memory_()  # type: ignore[no-untyped-call]
        return self._blocks[turn][:size]


@dataclass(slots=True)
class Parcel:
    """A batch on its way: images and masks in one block, all else by value.

    Each tensor that leaves a worker costs a file descriptor and a mapping of its own.
    """

    block: Tensor
    """uint8: the images and behind them the masks."""
    shapes: list[torch.Size]
    rest: dict[str, Any]

    @classmethod
    def of(cls, batch: Batch, block: Tensor) -> Parcel:
        """Args:
        block: holds `batch.images` and, behind them, `batch.masks`.
        """
        values = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name not in _IN_BLOCK}
        # numpy arrays travel by value; a tensor would become shared memory again.
        rest = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in values.items()}
        return cls(block, [getattr(batch, name).shape for name in _IN_BLOCK], rest)

    def open(self) -> Batch:
        """Copy the block and return the batch in the copy."""
        return self._batch(self.block.clone())

    def pin_memory(self) -> Batch:
        """Move the batch into page-locked memory (called by torch's DataLoader)."""
        # The first pins images and masks, as one block; the second what travelled by value.
        return self._batch(self.block.pin_memory()).pin_memory()

    def _batch(self, block: Tensor) -> Batch:
        # Images first, masks behind them, as `collate` wrote them.
        images, masks = self.shapes
        split = images.numel()
        values: dict[str, Any] = {
            k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in self.rest.items()
        }
        # Views of the copy: the two large tensors are not copied again.
        values |= {"images": block[:split].view(images), "masks": block[split:].view(masks)}
        return Batch(**values)


class Receiver:
    """Opens what arrives in the training process."""

    def __init__(self, blocks: int) -> None:
        # As long as somebody holds a block here, torch does not map it anew for each batch.
        self._mapped: deque[Tensor] = deque(maxlen=blocks)
        if blocks:
            keep_freed_memory()  # each batch's copy has the size of one that was just freed

    def take(self, arrived: Batch | Parcel) -> Batch:
        """Take a batch of this process's own."""
        if isinstance(arrived, Batch):
            return arrived
        self._mapped.append(arrived.block)
        return arrived.open()
