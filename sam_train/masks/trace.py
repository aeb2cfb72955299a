"""Logits of the decoder's grid to masks of the photo, without a bitmap in between.

The masks, their areas at other thresholds and their boxes are those of upscaling the logits as
`Sam.postprocess` does and thresholding the pixels, at a fraction of the time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_train.masks import trace_kernels
from sam_train.masks.crops import Crop
from sam_train.masks.frame import InputFrame
from sam_train.masks.upscale import axis

Changes = npt.NDArray[np.int32]
"""A mask of the original frame: the places, column by column, where it begins and ends in turn,
rising. Every run of foreground is changes[2 i] to changes[2 i + 1] - 1; the last may have no end,
it then reaches the photo's last pixel."""


@dataclass(slots=True, kw_only=True)
class Traced:
    """n masks of one crop."""

    changes: list[Changes]
    areas: npt.NDArray[np.int64]
    """[n] pixels."""
    weak: npt.NDArray[np.int64]
    """[n] pixels above threshold - offset."""
    strong: npt.NDArray[np.int64]
    """[n] pixels above threshold + offset."""
    boxes: npt.NDArray[np.int64]
    """[n, 4] x0 y0 x1 y1 in the crop: first and last column and row; zeros for an empty mask."""

    @property
    def stability(self) -> npt.NDArray[np.float32]:
        """[n] IoU of the masks cut at threshold + offset and - offset (paper B); NaN if both are
        empty."""
        with np.errstate(invalid="ignore"):
            share: npt.NDArray[np.float32] = np.divide(self.strong, self.weak, dtype=np.float32)
            return share


def trace_masks(
    logits: npt.NDArray[np.float32],
    *,
    crop: Crop,
    photo: tuple[int, int],
    image_size: int,
    offset: float,
) -> Traced:
    """Trace the masks of one crop in the original frame.

    Args:
        logits: [n, g, g] of the crop.
        crop: where it lies.
        photo: (H, W); H * W below 2^31.
        image_size: S, the side of the model's input.
        offset: of the two other thresholds around 0.
    """
    n, cells, _ = logits.shape
    frame = InputFrame(original=(crop.height, crop.width), side=image_size)
    rows, columns = (
        axis(cells=cells, side=image_size, inside=inside, pixels=pixels)
        for inside, pixels in zip(frame.size, frame.original, strict=True)
    )
    cuts = np.array([-offset, 0.0, offset], np.float32)
    place = np.array([crop.x0, crop.y0, *photo], np.int64)
    starts = np.zeros(n + 1, np.int64)
    found = np.zeros((n, 7), np.int64)
    # Room for a few hundred changes a mask and a whole column on top; more when it is needed.
    out = np.empty(4096 * max(n, 1) + 2 * crop.height + 4, np.int32)
    grid = np.ascontiguousarray(logits, np.float32)
    done = trace_kernels.trace(grid, 0, rows, columns, cuts, place, out, starts, found)
    # The kernel stops at the first mask that does not fit; those before it are done.
    while done < n:
        out = np.concatenate([out, np.empty_like(out)])
        done = trace_kernels.trace(grid, done, rows, columns, cuts, place, out, starts, found)
    return Traced(
        changes=[out[starts[k] : starts[k + 1]].copy() for k in range(n)],
        weak=found[:, 0],
        strong=found[:, 1],
        areas=found[:, 2],
        boxes=found[:, 3:],
    )
