"""A mask as one vector: the mean of the image embedding under it, over a crop and its mirror
image (paper D.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sam_train.masks.frame import InputFrame
from sam_train.model import Sam


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """What is around a mask."""

    image: npt.NDArray[np.uint8]
    """[h, w, 3] RGB."""
    mask: npt.NDArray[np.bool_]
    """[h, w], not empty."""

    @property
    def mirrored(self) -> Crop:
        """Left and right exchanged."""
        return Crop(
            image=np.ascontiguousarray(self.image[:, ::-1]),
            mask=np.ascontiguousarray(self.mask[:, ::-1]),
        )


def cut_out(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], *, margin: float) -> Crop:
    """The box of a mask, grown by `margin` of its longer side and cut at the photo's edges.

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
def embed_masks(sam: Sam, crops: Sequence[Crop], *, batch: int, device: torch.device) -> Tensor:
    """One unit vector for each crop.

    Args:
        sam: in evaluation mode, on `device`.
        crops: n of them.
        batch: images encoded at once.

    Returns:
        float32 [n, C] on the CPU.
    """
    both = [view for crop in crops for view in (crop, crop.mirrored)]
    vectors = []
    for start in range(0, len(both), batch):
        views = both[start : start + batch]
        frames = [_framed(view, side=sam.image_size) for view in views]
        images = torch.stack([frame.image for frame in frames])
        sizes = torch.tensor([frame.size for frame in frames])
        embeddings = sam.encode(images.to(device), sizes.to(device)).float().cpu()
        patch = sam.image_size // embeddings.shape[-1]
        shares = F.avg_pool2d(torch.stack([frame.mask for frame in frames]), patch)
        vectors.append((embeddings * shares).sum((2, 3)) / shares.sum((2, 3)))
    means = torch.cat(vectors).view(len(crops), 2, -1).mean(dim=1)
    return F.normalize(means, dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Framed:
    """A crop in the model's input frame."""

    image: Tensor
    """uint8 [3, S, S]."""
    mask: Tensor
    """float32 [1, S, S]: how much of each pixel is the mask's."""
    size: tuple[int, int]


def _framed(crop: Crop, *, side: int) -> _Framed:
    frame = InputFrame(original=crop.mask.shape, side=side)
    h, w = frame.size
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    resized = np.array(frame.resize(Image.fromarray(crop.image)))
    image[:, :h, :w] = torch.from_numpy(resized).permute(2, 0, 1)
    mask = torch.zeros(1, side, side)
    whole = torch.from_numpy(crop.mask.astype(np.float32))[None, None]
    mask[:, :h, :w] = F.interpolate(whole, (h, w), mode="area")[0]
    return _Framed(image=image, mask=mask, size=(h, w))
