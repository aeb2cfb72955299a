"""The order: a permutation each epoch, the same whoever asks, split without gap or overlap."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from sam_train.data.order import Order, PositionBatches, hash64
from sam_train.errors import UserError


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 64, 65, 1000])
def test_every_epoch_is_a_permutation_of_its_own(samples: int) -> None:
    order = Order(samples=samples, seed=3)
    epochs = [[order.place(e * samples + p) for p in range(samples)] for e in range(3)]
    for number, epoch in enumerate(epochs):
        assert sorted(place.index for place in epoch) == list(range(samples))
        assert {place.epoch for place in epoch} == {number}
    if samples > 60:
        indices = [tuple(place.index for place in epoch) for epoch in epochs]
        assert len(set(indices)) == 3
        assert indices[0] != tuple(
            Order(samples=samples, seed=4).place(p).index for p in range(samples)
        )


def test_position_0_holds_every_sample_equally_often() -> None:
    n, seeds = 6, 3000
    counts = Counter(Order(samples=n, seed=s).place(0).index for s in range(seeds))
    pairs = Counter(
        (Order(samples=n, seed=s).place(0).index, Order(samples=n, seed=s).place(1).index)
        for s in range(seeds)
    )
    chi2 = sum((counts[i] - seeds / n) ** 2 / (seeds / n) for i in range(n))
    assert chi2 < 20.5  # 0.1 % of the chi-square distribution with 5 degrees of freedom
    expected = seeds / (n * (n - 1))
    chi2 = sum(
        (pairs[i, j] - expected) ** 2 / expected for i in range(n) for j in range(n) if i != j
    )
    assert chi2 < 58.3  # with 29 degrees of freedom


def test_the_order_of_a_seed_never_changes() -> None:
    # A checkpoint's counter means these samples: another order would break every resume.
    order = Order(samples=11_000_000, seed=0)
    positions = (0, 1, 2, 20_000_000)
    assert [order.place(p).index for p in positions] == [10611969, 5503779, 2377748, 5094501]
    assert order.replacement(7, 1) == order.replacement(7, 1) != order.replacement(7, 2)


def test_hash_depends_on_the_order_of_its_parts() -> None:
    assert len({hash64(1, 2), hash64(2, 1), hash64(1, 2, 0), hash64(0, 1, 2), hash64(3)}) == 5


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 1), (12, 1)])
def test_ranks_and_micro_batches_together_are_the_step(world: int, accumulate: int) -> None:
    steps = 3
    batches = [
        list(
            islice(
                PositionBatches(
                    lambda: 5, batch_size=12, rank=r, world_size=world, accumulate=accumulate
                ),
                steps * accumulate,
            )
        )
        for r in range(world)
    ]
    for s in range(steps):
        of_step = [b for of_rank in batches for b in of_rank[s * accumulate : (s + 1) * accumulate]]
        assert {len(b) for b in of_step} == {12 // world // accumulate}
        assert [p for b in of_step for p in b] == list(range(5 + 12 * s, 17 + 12 * s))


def test_a_batch_that_cannot_be_divided_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=10 .* 2 ranks x 3 .* multiple of 6"):
        PositionBatches(lambda: 0, batch_size=10, world_size=2, accumulate=3)
