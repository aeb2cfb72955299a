"""The shapes, dtypes and coordinate frames that cross a module boundary.

Legend (used in every docstring of the project)
    B  images in a batch            S  side of the model's square input (1024 in the paper)
    M  masks in a batch (flat)      g  side of the decoder's logits, S / 4 (256 in the paper)
    T  prompt tokens of one mask    R  side of the loss grid; g unless the loss runs at S
    K  masks per prompt (3 or 1)    C  channels of the image embedding (256 in the paper)

Frames
    original  the photo as stored: pixels of [H, W].
    input     the photo scaled so that its longest side is S, placed at the top left of an
              S x S square; what lies right of or below it is padding. Points and boxes are
              (x, y) *pixel indices* here: 0.0 is the centre of the first pixel, because the
              prompt encoder adds the half pixel itself (as segment-anything does).
    grid      the logits: cell [i, j] of a grid of side g covers the input pixels
              [i*S/g, (i+1)*S/g) x [j*S/g, (j+1)*S/g). Arrays are [row, column].
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Prompt labels. Those from -1 to 3 are segment-anything's; ABSENT marks a slot that a mask does
# not have (yet), which attention must not see.
ABSENT = -2
PAD = -1
BACKGROUND = 0
FOREGROUND = 1
BOX_TOP_LEFT = 2
BOX_BOTTOM_RIGHT = 3

MASK_ID_BITS = 16
"""A mask's id is its image's place in the sample order, shifted by this, and its own number."""


class RLE(TypedDict):
    """A mask of the original frame as SA-1B stores it."""

    size: list[int]
    """[height, width] of the photo."""
    counts: str | bytes
    """COCO compressed run lengths, column-major, starting with background."""


@dataclass(slots=True, kw_only=True)
class Sample:
    """A photo with the masks drawn from it, on the CPU, before collation."""

    key: str
    """Name of its source for messages, such as `shard.tar/sa_12`."""
    position: int
    """Place in the endless sample order; a pure function of it decided all that was drawn."""
    image: npt.NDArray[np.uint8]
    """[h, w, 3] RGB, longest side S (at most S with `data.scale_jitter`), no padding yet."""
    original_size: tuple[int, int]
    """(H, W) of the photo."""
    masks: npt.NDArray[np.uint8]
    """[m, R, R] of {0, 1}: grid frame at the loss resolution, padding is 0."""
    points: npt.NDArray[np.float32]
    """[m, 2] (x, y), input frame: one foreground pixel of the original mask, drawn uniformly."""
    boxes: npt.NDArray[np.float32]
    """[m, 4] x0 y0 x1 y1, input frame: first and last foreground column and row (inclusive)."""
    mask_ids: npt.NDArray[np.int64]
    """[m] names of the masks' random streams: unique within a training step, and the same on any
    number of ranks."""
    rles: list[RLE] | None = None
    """The m masks in the original frame; only evaluation carries them along."""
    without_cell: int = 0
    """Masks of the photo that could not be drawn: smaller than a cell of the loss grid."""


@dataclass(slots=True, kw_only=True)
class Batch:
    """Several samples with their masks as one flat list: image `image_index[k]` owns mask k."""

    images: Tensor
    """uint8 [B, 3, S, S], padded with zeros; normalised on the device."""
    image_sizes: Tensor
    """int64 [B, 2] (h, w) of the photo inside the input frame."""
    original_sizes: Tensor
    """int64 [B, 2] (H, W), original frame."""
    masks: Tensor
    """uint8 [M, R, R] of {0, 1}."""
    image_index: Tensor
    """int64 [M], non-decreasing."""
    points: Tensor
    """float32 [M, 2], input frame."""
    boxes: Tensor
    """float32 [M, 4], input frame."""
    mask_ids: Tensor
    """int64 [M]."""
    keys: list[str]
    """B names for messages."""
    positions: list[int]
    """B places in the sample order."""
    rles: list[RLE] | None = None
    """M masks, original frame; only evaluation."""
    image_hashes: list[bytes] | None = None
    """B hashes of each photo's pixels in the input frame; only with a cache of embeddings."""
    step_masks: int | None = None
    """Masks of all the batches that this rank accumulates into one step; None: of this one."""

    @property
    def num_masks(self) -> int:
        """M."""
        # From the shape: a count of the values would wait for the device.
        return self.image_index.shape[0]

    def _map(self, function: Any) -> Batch:
        tensors = {
            f.name: function(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **tensors)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Return the same batch with every tensor on `device`."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the same batch in page-locked memory; torch's DataLoader calls it by this name."""
        return self._map(lambda t: t.pin_memory())


@dataclass(slots=True, kw_only=True)
class Prompts:
    """The points, boxes and logits given so far for each of M masks.

    A first prompt is always two tokens: a point and the PAD token, or two box corners. After k
    clicks a mask therefore has k + 2 tokens whatever it began with, and a mix is rectangular.
    """

    coords: Tensor
    """float32 [M, T, 2] (x, y), input frame; ignored where the label is PAD or ABSENT."""
    labels: Tensor
    """int64 [M, T] of the constants above."""
    mask_logits: Tensor | None = None
    """[M, 1, g, g] logits of the round before (not binarised), or None in the first round."""


@dataclass(slots=True, kw_only=True)
class Prediction:
    """The decoder's masks for M prompts: K = 3 for a single prompt, else 1."""

    mask_logits: Tensor
    """[M, K, g, g]."""
    iou: Tensor
    """[M, K] predicted IoU."""
