"""Connected regions of masks and label maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

NEIGHBOURS = {4: ndimage.generate_binary_structure(2, 1), 8: np.ones((3, 3), dtype=bool)}
"""Pixels that are connected: 4 by their sides, 8 by corners, too."""

SPECK_SHARE = 0.02
"""A region under this share of the largest one is no object of its own when they are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """A label map cut into connected regions."""

    labels: npt.NDArray[np.int64]
    """[H, W]: 1 and up, in the order of values and then of rows; 0 is none."""
    values: list[int]
    """The value that region k + 1 had."""


def split_regions(
    labels: npt.NDArray[Any], *, ignore: tuple[int, ...] = (0,), connectivity: int = 4
) -> Regions:
    """Number the connected regions of every value of a label map.

    Args:
        labels: integers [H, W].
        ignore: values that are no object.
        connectivity: 4, or 8 where pixels that touch at a corner are connected.
    """
    values, compact = _compact(labels)
    regions = np.zeros(labels.shape, dtype=np.int64)
    owners: list[int] = []
    for number, place in enumerate(ndimage.find_objects(compact)):
        if place is None or int(values[number]) in ignore:
            continue
        # Inside the value's own box, which is most of the speed with many labels.
        found, count = ndimage.label(compact[place] == number + 1, NEIGHBOURS[connectivity])
        window = regions[place]
        window[found > 0] = found[found > 0] + len(owners)
        owners += [int(values[number])] * count
    return Regions(labels=regions, values=owners)


def most_pieces(labels: npt.NDArray[Any], *, ignore: tuple[int, ...] = (0,)) -> int:
    """Count the regions, specks left aside, of the value that has most of them."""
    values, compact = _compact(labels)
    most = 0
    for number, place in enumerate(ndimage.find_objects(compact)):
        if place is None or int(values[number]) in ignore:
            continue
        # By corners, too: fewer pieces, so what is said of them is not exaggerated.
        found, _ = ndimage.label(compact[place] == number + 1, NEIGHBOURS[8])
        areas = np.bincount(found.ravel())[1:]
        most = max(most, int((areas >= max(SPECK_SHARE * areas.max(), 4)).sum()))
    return most


def _compact(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Return the distinct values, and the map with each value's place among them from 1."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    values, places = np.unique(flat[starts], return_inverse=True)
    lengths = np.diff(np.append(starts, flat.size))
    compact = np.repeat(places.ravel() + 1, lengths).astype(np.int32)
    return values, compact.reshape(labels.shape)
