import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from sam_train.eval.tasks.edges.correspondence import correspond_sequence, reach


@dataclass
class Partners:
    """The pixels of both maps with a partner, and the sum of the distances in pixels."""

    edges: np.ndarray
    truth: np.ndarray
    distance: float


def correspond(edges: np.ndarray, truth: np.ndarray, *, max_distance: float) -> Partners:
    pixels = np.flatnonzero(edges)
    found = correspond_sequence([pixels], truth, max_distance=max_distance)
    matched = np.zeros(edges.shape, dtype=bool)
    matched.reshape(-1)[pixels] = found.matched
    return Partners(matched, found.truth, found.costs[-1] / 100)


def least_cost(edges: np.ndarray, truth: np.ndarray, max_distance: float) -> tuple[int, int]:
    """(pairs, cost in hundredths) of the official assignment problem, solved as a dense one."""
    a, b = np.argwhere(edges), np.argwhere(truth)
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    cost = np.full((len(a) + len(b),) * 2, math.ceil(100 * max_distance * 100))
    cost[: len(a), : len(b)] = np.where(
        distance <= max_distance, np.rint(100 * distance), 1_000_000_000
    )
    rows, columns = linear_sum_assignment(cost)
    real = (rows < len(a)) & (columns < len(b))
    return int(real.sum()), int(cost[rows[real], columns[real]].sum())


@pytest.mark.parametrize("max_distance", [1.0, 1.5, 2.3, 4.337])
@pytest.mark.parametrize("seed", range(8))
def test_sequences_have_the_least_cost_at_every_map(seed: int, max_distance: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((12, 15)) < 0.4 * rng.random()
    # Growing, unrelated and shrinking maps, an empty one and a repeated one.
    maps = [rng.random((12, 15)) < p for p in (0.05, 0.4, 0.2, 0.0, 0.3)]
    maps += [maps[-1], maps[-1] & (rng.random((12, 15)) < 0.8)]
    found = correspond_sequence(
        [np.flatnonzero(edges) for edges in maps], truth, max_distance=max_distance
    )
    expected = [least_cost(edges, truth, max_distance) for edges in maps]
    assert list(zip(found.pairs, found.costs, strict=True)) == expected
    ends = np.cumsum([0, *(edges.sum() for edges in maps)])
    parts = pairwise(ends)
    assert [found.matched[a:b].sum() for a, b in parts] == found.pairs.tolist()
    assert found.truth.sum() == found.pairs[-1]
    assert not (found.truth & ~truth).any()


def test_one_partner_each() -> None:
    edges = np.zeros((9, 9), dtype=bool)
    edges[4, 2:7] = True
    truth = np.zeros((9, 9), dtype=bool)
    truth[3, 4] = True
    found = correspond(edges, truth, max_distance=2.0)
    assert found.edges.sum() == 1
    assert found.edges[4, 4]  # the nearest of five
    assert found.distance == 1.0


def test_more_pairs_go_before_nearer_pairs() -> None:
    # b could take its twin at distance 0, but then a would be left alone.
    edges = np.zeros((1, 12), dtype=bool)
    truth = np.zeros((1, 12), dtype=bool)
    edges[0, [2, 5]] = True  # a, b
    truth[0, [5, 8]] = True
    found = correspond(edges, truth, max_distance=3.0)
    assert found.edges.sum() == found.truth.sum() == 2
    assert found.distance == 6.0


def test_beyond_the_distance_nothing_corresponds() -> None:
    edges = np.eye(3, dtype=bool)[:1].repeat(3, 0) & np.array([[True], [False], [False]])
    truth = np.roll(edges, (2, 2), (0, 1))
    assert correspond(edges, truth, max_distance=2.8).edges.sum() == 0
    assert correspond(edges, truth, max_distance=2.9).distance == 2.83


def test_pixels_do_not_reach_around_the_border() -> None:
    edges = np.zeros((4, 6), dtype=bool)
    truth = np.zeros((4, 6), dtype=bool)
    edges[1, 5] = truth[2, 0] = True  # neighbours in memory, five columns apart
    assert correspond(edges, truth, max_distance=4.0).edges.sum() == 0


def test_empty_maps() -> None:
    full, empty = np.ones((4, 5), dtype=bool), np.zeros((4, 5), dtype=bool)
    for edges, truth in ((full, empty), (empty, full), (empty, empty)):
        found = correspond(edges, truth, max_distance=2.0)
        assert not found.edges.any()
        assert not found.truth.any()


def test_reach_is_a_fraction_of_the_diagonal() -> None:
    assert reach((3, 4), 0.5) == 2.5
    assert int(reach((321, 481), 0.0075) ** 2) == 18


def test_negative_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        correspond(np.ones((2, 2), dtype=bool), np.ones((2, 2), dtype=bool), max_distance=-1)
