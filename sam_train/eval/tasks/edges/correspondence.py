"""One-to-one correspondence of boundary pixels at least cost, as the BSDS benchmark defines it.

Two pixels at most `max_distance` apart may correspond, at the cost of their distance. A pixel
without a partner costs a hundred times `max_distance`. The official program (`correspondPixels`,
Martin, Fowlkes and Malik, PAMI 2004) rounds distances to hundredths of a pixel and hands the
assignment problem to Goldberg and Kennedy's CSA. Here the same integer problem is solved by
shortest augmenting paths (the Hungarian method) on the graph of pixels within reach. The cost is
therefore always the least possible. The official program links pixels to "nobody" through a random
graph and is exact up to that. Both choose at random among several cheapest correspondences; here
the choice has a seed.

Neighbouring thresholds share most of their pixels. Prices and partners are therefore kept from one
threshold to the next, and every pixel that comes or goes costs one search in its neighbourhood
(the dynamic Hungarian method, Mills-Tettey, Stentz and Dias 2007), with the exact optimum after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sam_train.eval.tasks.edges.matching import Graph, match_sequence

Mask = npt.NDArray[np.bool_]

# The official program's constants: hundredths of a pixel, and a hundred times max_distance.
_UNITS = 100
_OUTLIER = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceMatches:
    """Partners of a row of edge maps in one ground truth."""

    matched: npt.NDArray[np.bool_]
    """bool [P]: True for pixels with a partner; P runs over the maps' pixels map after map."""
    pairs: npt.NDArray[np.int64]
    """int64 [T]: number of pairs per map."""
    costs: npt.NDArray[np.int64]
    """int64 [T]: sum of the distances between partners, hundredths of a pixel."""
    truth: Mask
    """bool [H, W]: pixels of the ground truth with a partner in the last map."""


def reach(shape: tuple[int, int], max_distance: float) -> float:
    """Return `max_distance`, a fraction of the image's diagonal, in pixels."""
    return max_distance * math.hypot(*shape)


def correspond_sequence(
    pixels: Sequence[npt.NDArray[np.int64]], truth: Mask, *, max_distance: float, seed: int = 0
) -> SequenceMatches:
    """Find the cheapest one-to-one correspondence of each edge map with one ground truth.

    It is fast where maps resemble their predecessors, as those of rising thresholds do.

    Args:
        pixels: per map the set pixels as flat indices (row * W + column), each once.
        truth: bool [H, W].
        max_distance: in pixels.
        seed: of the order in which pixels are matched, which decides between equal costs. Reading
            order instead biases precision against the official program's.

    Raises:
        ValueError: `max_distance` is negative.
    """
    if max_distance < 0:
        raise ValueError(f"max_distance is {max_distance}: a distance in pixels is at least 0")
    height, width = truth.shape
    # A border as wide as the reach: no step to a neighbour leaves the array, or wraps to a row.
    pad = math.ceil(max_distance)
    stride = width + 2 * pad
    window = np.mgrid[-pad : pad + 1, -pad : pad + 1].reshape(2, -1)
    square = (window**2).sum(0)
    # Nearest first, so that a search may stop early.
    order = np.argsort(square, kind="stable")
    order = order[square[order] <= max_distance**2]
    flat = np.concatenate([np.empty(0, np.int64), *pixels])
    starts = np.cumsum([0, *(p.size for p in pixels)], dtype=np.int64)
    rng = np.random.default_rng(seed)
    shuffled = np.concatenate(
        [np.empty(0, np.int64), *(a + rng.permutation(b - a) for a, b in pairwise(starts))]
    )
    row, column = np.divmod(flat[shuffled], width)
    graph = Graph(
        offsets=(window[0] * stride + window[1])[order],
        # Doubled, so that half of the official price of two outliers is a whole number.
        costs=2 * np.rint(np.sqrt(square[order]) * _UNITS).astype(np.int64),
        outlier=math.ceil(_OUTLIER * max_distance * _UNITS),
    )
    found, pairs, costs, partners = match_sequence(
        (row + pad) * stride + column + pad,
        starts,
        np.pad(truth, pad).astype(np.uint8).reshape(-1),
        graph,
    )
    matched = np.empty_like(found)
    matched[shuffled] = found
    inside = partners.reshape(height + 2 * pad, stride)[pad : pad + height, pad : pad + width]
    return SequenceMatches(matched=matched, pairs=pairs, costs=costs // 2, truth=inside >= 0)
