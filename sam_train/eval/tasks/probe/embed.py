"""A mask as one vector: the mean of the image embedding under it, over a crop and its mirror
image (paper D.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_train.model import Sam
from sam_train.model.encoded_photos import encode_photos


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A mask and the part of the photo around it."""

    image: npt.NDArray[np.uint8]
    """[h, w, 3] RGB."""
    mask: npt.NDArray[np.bool_]
    """[h, w], not empty."""

    @property
    def mirrored(self) -> Crop:
        """The mirror image, left and right exchanged."""
        return Crop(
            image=np.ascontiguousarray(self.image[:, ::-1]),
            mask=np.ascontiguousarray(self.mask[:, ::-1]),
        )


def cut_out(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], *, margin: float) -> Crop:
    """Cut out the box of a mask, grown by `margin` of its longer side and cut at the photo's edges.

    Args:
        image: [H, W, 3].
        mask: [H, W], not empty.
    """
    ends = []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    grow = round(margin * max(np.ptp(rows) + 1, np.ptp(columns) + 1))
    for places, length in zip((rows, columns), mask.shape, strict=True):
        ends.append(slice(max(0, places[0] - grow), min(length, places[-1] + 1 + grow)))
    return Crop(image=image[tuple(ends)], mask=mask[tuple(ends)])


@torch.no_grad()
def embed_masks(sam: Sam, crops: Sequence[Crop], *, batch: int) -> Tensor:
    """Return one unit vector for each crop.

    Args:
        sam: in evaluation mode.
        crops: n of them.
        batch: images encoded at once.

    Returns:
        float32 [n, C] on the CPU.
    """
    # A crop and its mirror image next to each other, for the mean over pairs below.
    both = [view for crop in crops for view in (crop, crop.mirrored)]
    vectors = []
    for start in range(0, len(both), batch):
        views = both[start : start + batch]
        encoded = encode_photos(sam, [view.image for view in views])
        embeddings = encoded.embeddings.float().cpu()
        side = sam.image_size
        squares = torch.zeros(len(views), 1, side, side)
        for square, view, (h, w) in zip(squares, views, encoded.sizes, strict=True):
            mask = torch.from_numpy(view.mask.astype(np.float32))[None, None]
            square[:, :h, :w] = F.interpolate(mask, (h, w), mode="area")[0]
        # A cell's share is the part of its pixels that belongs to the mask.
        shares = F.avg_pool2d(squares, side // embeddings.shape[-1])
        vectors.append((embeddings * shares).sum((2, 3)) / shares.sum((2, 3)))
    means = torch.cat(vectors).view(len(crops), 2, -1).mean(dim=1)
    return F.normalize(means, dim=1)
