"""A mask's changes to the run lengths that others read, and what can be told from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from sam_train.masks.trace import Changes
from sam_train.types import RLE


def run_lengths(changes: Changes, photo: tuple[int, int]) -> list[int]:
    """Return COCO's uncompressed run lengths: column-major, background first (0 if there is
    none)."""
    pixels = photo[0] * photo[1]
    edges = np.concatenate([np.zeros(1, np.int64), changes, np.full(1, pixels, np.int64)])
    lengths: list[int] = np.diff(edges).tolist()
    return lengths


def compressed(changes: Changes, photo: tuple[int, int]) -> dict[str, Any]:
    """Encode as COCO's compressed RLE, with `counts` as a string, so that it can go into JSON."""
    uncompressed = {"size": list(photo), "counts": run_lengths(changes, photo)}
    rle: dict[str, Any] = coco_mask.frPyObjects(uncompressed, *photo)
    return {"size": list(photo), "counts": rle["counts"].decode("ascii")}


def bitmap(changes: Changes, photo: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Draw the mask as bool [H, W]."""
    steps = np.zeros(photo[0] * photo[1] + 1, np.bool_)
    # One place more than pixels, for an end behind the last.
    steps[changes] = True
    flat = np.logical_xor.accumulate(steps[:-1])
    return flat.reshape(photo[1], photo[0]).T


def from_bitmap(mask: npt.NDArray[np.bool_]) -> Changes:
    """Return the changes of a bool [H, W]."""
    # Background in front, so that a mask of pixel 0 begins with a change.
    flat = np.concatenate([np.zeros(1, np.bool_), mask.T.ravel()])
    return np.flatnonzero(flat[1:] != flat[:-1]).astype(np.int32)


def from_coco(rle: RLE) -> Changes:
    """Return the changes of a compressed RLE that has been checked, see `masks.rle`."""
    return from_bitmap(coco_mask.decode(rle).astype(bool))


def area_of(changes: Changes, photo: tuple[int, int]) -> int:
    """Count the pixels of the mask."""
    return sum(run_lengths(changes, photo)[1::2])


def box_of(changes: Changes, photo: tuple[int, int]) -> list[int]:
    """Return [x0, y0, x1, y1], the first and last column and row; zeros for an empty mask."""
    if not len(changes):
        return [0, 0, 0, 0]
    height, width = photo
    begins = changes[0::2].astype(np.int64)
    ends = np.append(changes[1::2], height * width)[: len(begins)].astype(np.int64) - 1
    left, right = begins // height, ends // height
    # A run that goes on in the next column touches the last and the first row.
    whole = bool((left != right).any())
    top = 0 if whole else int((begins % height).min())
    bottom = height - 1 if whole else int((ends % height).max())
    return [int(left[0]), top, int(right[-1]), bottom]
