"""The nearest neighbours of masks, and their agreement beside that of chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_CHUNK = 1024
"""Masks compared with all others at once."""


@dataclass(slots=True, kw_only=True)
class Nearest:
    """The most similar masks of other photos, at most one of each."""

    index: Ints
    """[q, k], -1 where there are no more photos."""
    similarity: Floats
    """[q, k] cosines; NaN where there are no more photos."""


def nearest(vectors: Floats, photos: Ints, queries: Ints, *, count: int) -> Nearest:
    """Find the `count` masks most like each query, best first.

    Args:
        vectors: [n, C], of length 1.
        photos: [n] number of each mask's photo.
        queries: [q] positions among the n.
    """
    found = Nearest(
        index=np.full((len(queries), count), -1, dtype=np.int64),
        similarity=np.full((len(queries), count), np.nan, dtype=np.float32),
    )
    for start in range(0, len(queries), _CHUNK):
        rows = queries[start : start + _CHUNK]
        for row, similarity in enumerate(vectors[rows] @ vectors.T, start=start):
            order = np.argsort(-similarity, kind="stable")
            order = order[photos[order] != photos[queries[row]]]
            # The best mask of each photo, because two masks of one thing would count it twice.
            first = np.sort(np.unique(photos[order], return_index=True)[1])
            best = order[first[:count]]
            found.index[row, : len(best)] = best
            found.similarity[row, : len(best)] = similarity[best]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The share of neighbours that are of a mask's own group."""

    masks: int
    """Number of masks that have a group and a neighbour with one."""
    share: float
    """Share of those neighbours that are of the same group; mean over masks."""
    chance: float
    """The same share with all masks of other photos as neighbours."""


def agreement(groups: Sequence[str | None], photos: Ints, found: Nearest) -> Agreement | None:
    """Measure the share of `found`, the neighbours of n masks, in the mask's own group.

    Returns None if no mask and its neighbours have a group.

    Args:
        groups: [n] of one attribute.
    """
    names = np.array([group or "" for group in groups])
    labelled = names != ""
    shares, chances = [], []
    for mask in np.flatnonzero(labelled):
        beside = found.index[mask][found.index[mask] >= 0]
        beside = beside[labelled[beside]]
        others = labelled & (photos != photos[mask])
        if len(beside):
            shares.append(float((names[beside] == names[mask]).mean()))
            chances.append(float((names[others] == names[mask]).mean()))
    if not shares:
        return None
    return Agreement(
        masks=len(shares), share=float(np.mean(shares)), chance=float(np.mean(chances))
    )


def usual_similarity(vectors: Floats, photos: Ints) -> float:
    """Return the mean cosine of two masks of different photos; NaN for a single photo."""
    every = np.unique(photos, return_inverse=True)[1]
    sums = np.zeros((every.max() + 1, vectors.shape[1]))
    np.add.at(sums, every, vectors)
    counts = np.bincount(every)
    total = sums.sum(0)
    # All pairs less those within a photo: sums give their products without n x n cosines.
    pairs = counts.sum() ** 2 - (counts**2).sum()
    return float((total @ total - (sums**2).sum()) / pairs) if pairs else float("nan")
