"""Choice of the masks that a step trains on: filtered, then drawn, before any is decoded."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sam_train.data.feed.order import hash_each
from sam_train.masks.rle import Runs


def usable(runs: Runs, *, pixels: int, max_area_fraction: float) -> npt.NDArray[np.int64]:
    """Select masks that are valid, not empty and not larger than the allowed part of the image.

    Args:
        pixels: H x W of the photo.

    Returns:
        int64 [n] indices into the annotations, ascending.
    """
    # Paper A: masks over 90 % of the image are dropped.
    keep = (runs.status == 0) & (runs.areas > 0) & (runs.areas <= max_area_fraction * pixels)
    return np.flatnonzero(keep).astype(np.int64)


def draw(masks: npt.NDArray[np.int64], *, limit: int | None, key: int) -> npt.NDArray[np.int64]:
    """Draw at most `limit` masks, every subset equally likely, decided by `key` alone.

    Returns:
        int64 [m] ascending.
    """
    if limit is None or len(masks) <= limit:
        return masks
    # The masks with the smallest of n independent hashes are a uniform subset without
    # replacement; no generator has to be carried along.
    smallest = np.argpartition(hash_each(key, masks), limit)[:limit]
    # `argpartition` promises no order, and masks are numbered by theirs.
    return np.sort(masks[smallest])


def draw_ranks(
    masks: npt.NDArray[np.int64], areas: npt.NDArray[np.int64], *, key: int
) -> npt.NDArray[np.int64]:
    """Draw for each mask a foreground pixel's rank, int64 [m], uniform in 0 .. area - 1.

    Areas are below 2^31, so the bias of the fixed-point product is below 2^-1 of a rank in 2^32.
    """
    # 32 bits, because their product with an area must fit into 64.
    high = hash_each(key, masks) >> np.uint64(32)
    ranks: npt.NDArray[np.int64] = (high * areas.astype(np.uint64) >> np.uint64(32)).astype(
        np.int64
    )
    return ranks
