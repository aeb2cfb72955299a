"""The order: a permutation each epoch, the same whoever asks, split without gap or overlap."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_train.data.feed import order as order_module
from sam_train.data.feed.order import Order, PositionBatches, hash64
from sam_train.errors import UserError

GOLDEN_WINDOWED = [2066036, 599281, 9812816, 984491]


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


def firsts(sizes: list[int]) -> np.ndarray:
    return np.cumsum([0, *sizes])


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(any),
    window=st.integers(0, 12),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 10**6),
    left_out=st.integers(0, 5),
)
def test_windows_are_permuted_shards_and_every_epoch_is_complete(
    sizes: list[int], window: int, seed: int, epoch: int, left_out: int
) -> None:
    first = firsts(sizes)
    samples = max(1, int(first[-1]) - left_out)
    order = Order(samples=samples, seed=seed, shard_first=first, shuffle_window=window)
    positions = range(epoch * samples, (epoch + 1) * samples)
    places = [order.place(p) for p in positions]
    assert sorted(place.index for place in places) == list(range(samples))
    assert {place.epoch for place in places} == {epoch}
    # Whoever asks backwards, or only for one, is told the same.
    fresh = Order(samples=samples, seed=seed, shard_first=first, shuffle_window=window)
    assert [fresh.place(p) for p in reversed(positions)] == places[::-1]
    if not window:
        return
    shards = [int(np.searchsorted(first, place.index, side="right")) - 1 for place in places]
    # A shard's samples lie within a window: at most `window` shards are open at any place.
    begins = {s: shards.index(s) for s in set(shards)}
    ends = {s: samples - 1 - shards[::-1].index(s) for s in set(shards)}
    for place in range(samples):
        assert sum(begins[s] <= place <= ends[s] for s in begins) <= window


def test_a_window_of_one_reads_shard_after_shard_in_another_order_each_epoch() -> None:
    first = firsts([5, 1, 7, 0, 3, 6, 4, 2])
    order = Order(samples=28, seed=2, shard_first=first, shuffle_window=1)
    orders = set()
    for epoch in range(6):
        indices = [order.place(epoch * 28 + p).index for p in range(28)]
        shards = [int(np.searchsorted(first, i, side="right")) - 1 for i in indices]
        changes = [s for k, s in enumerate(shards) if k == 0 or s != shards[k - 1]]
        assert sorted(changes) == [0, 1, 2, 4, 5, 6, 7]
        orders.add(tuple(changes))
        assert indices != sorted(indices)
    assert len(orders) == 6


@pytest.mark.parametrize("window", [3, 4, 100])
def test_a_window_of_all_shards_is_the_full_shuffle(window: int) -> None:
    full = Order(samples=12, seed=9)
    order = Order(samples=12, seed=9, shard_first=firsts([5, 3, 4]), shuffle_window=window)
    assert [order.place(p) for p in range(40)] == [full.place(p) for p in range(40)]


def test_shards_stand_at_each_place_of_an_epoch_equally_often() -> None:
    seeds, shards = 3000, 5
    orders = [
        Order(samples=shards, seed=s, shard_first=firsts([1] * shards), shuffle_window=1)
        for s in range(seeds)
    ]
    counts = Counter((order.place(0).index, order.place(1).index) for order in orders)
    expected = seeds / (shards * (shards - 1))
    chi2 = sum((counts[i, j] - expected) ** 2 / expected for i, j in counts)
    assert len(counts) == shards * (shards - 1)
    assert chi2 < 43.8  # 0.1 % with 19 degrees of freedom


@pytest.mark.parametrize("window", [0, 16])
def test_sa_1b_is_entered_anywhere_at_the_same_cost(
    monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """11 M samples in 1000 uneven shards: hashes per position, and of arrays one epoch's shards."""
    sizes = 10_000 + np.arange(1000) * 7919 % 2001
    sizes[-1] += 11_000_000 - sizes.sum()
    hashes, lengths = Counter[str](), []
    real, real_each = order_module.hash64, order_module.hash_each

    def counted(*parts: int) -> int:
        hashes["n"] += 1
        return real(*parts)

    def counted_each(base: int, values: np.ndarray) -> np.ndarray:
        lengths.append(len(values))
        return real_each(base, values)

    monkeypatch.setattr(order_module, "hash64", counted)
    monkeypatch.setattr(order_module, "hash_each", counted_each)
    costs = {}
    for start in (0, 20_000_000, 10**15):
        hashes.clear()
        order = Order(
            samples=11_000_000, seed=1, shard_first=firsts(sizes.tolist()), shuffle_window=window
        )
        assert len({order.place(p).index for p in range(start, start + 256)}) == 256
        costs[start] = hashes["n"]
    # Cycle walking: 4 walks of 6 rounds at the most on average.
    assert max(costs.values()) < 256 * 26
    assert max(costs.values()) < 1.5 * min(costs.values())
    assert lengths == ([1000] * 3 if window else [])


def test_the_order_in_windows_of_a_seed_never_changes() -> None:
    first = np.arange(0, 11_000_001, 11_000)
    order = Order(samples=11_000_000, seed=0, shard_first=first, shuffle_window=16)
    positions = (0, 1, 2, 20_000_000)
    assert [order.place(p).index for p in positions] == GOLDEN_WINDOWED


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


def test_streams_keep_their_numbers() -> None:
    """Another number is another order: checkpoints would not continue as they began."""
    streams = {n: getattr(order_module, n) for n in dir(order_module) if n.startswith("STREAM_")}
    assert streams == {
        "STREAM_ORDER": 1,
        "STREAM_SUBSET": 2,
        "STREAM_POINT": 3,
        "STREAM_REPLACEMENT": 4,
        "STREAM_JITTER": 5,
        "STREAM_SHARDS": 6,
        "STREAM_TURNS": 7,
        "STREAM_BUFFER": 8,
        "STREAM_FLIP": 9,
        "STREAM_COLOUR": 10,
        "STREAM_MIX": 11,
    }


def splitmix64(parts: tuple[int, ...]) -> int:
    """Chained, on python's unbounded integers, with the published constants."""
    word, h = 1 << 64, 0
    for part in parts:
        h = ((h ^ (part % word)) + 0x9E3779B97F4A7C15) % word
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) % word
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) % word
        h ^= h >> 31
    return h


@settings(deadline=None, max_examples=50)
@given(parts=st.lists(st.integers(-(2**63), 2**70), max_size=4))
def test_hash_is_splitmix64_of_any_integers(parts: list[int]) -> None:
    assert hash64(*parts) == splitmix64(tuple(parts))


@settings(deadline=None, max_examples=50)
@given(
    base=st.integers(0, 2**64 - 1), values=st.lists(st.integers(0, 2**62), min_size=1, max_size=4)
)
def test_hash_each_is_splitmix64_of_each(base: int, values: list[int]) -> None:
    """Keyed as if `base` were the state that the chain has reached."""
    hashes = order_module.hash_each(base, np.array(values))
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [splitmix64((base ^ value,)) for value in values]


def test_the_replacement_is_any_sample_of_the_positions_epoch() -> None:
    order = Order(samples=7, seed=3)
    for position in (0, 6, 7, 20):
        places = [order.replacement(position, attempt) for attempt in range(200)]
        assert {place.epoch for place in places} == {position // 7}
        assert {place.index for place in places} == set(range(7))
    key = (3, order_module.STREAM_REPLACEMENT, 20, 1)
    assert order.replacement(20, 1).index == splitmix64(key) % 7


@pytest.mark.parametrize("window", [1, 2])
def test_a_window_below_all_shards_is_no_full_shuffle(window: int) -> None:
    """The shards of a window are read out before the next window's begin."""
    order = Order(samples=300, seed=9, shard_first=firsts([100] * 3), shuffle_window=window)
    shards = [order.place(p).index // 100 for p in range(300)]
    assert len(set(shards[: 100 * window])) == window
    assert len(set(shards[100 * window :])) == 3 - window


def test_the_whole_step_is_one_batch_unless_it_is_divided() -> None:
    batches = PositionBatches(lambda: 7, batch_size=6)
    assert list(islice(batches, 2)) == [list(range(7, 13)), list(range(13, 19))]


def test_each_pass_asks_anew_where_it_begins() -> None:
    starts = iter([4, 40])
    batches = PositionBatches(lambda: next(starts), batch_size=2)
    assert [next(iter(batches)) for _ in range(2)] == [[4, 5], [40, 41]]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257])
def test_permute_is_a_permutation_of_its_key(count: int) -> None:
    for key in (0, 2**63):
        assert sorted(order_module.permute(i, count, key=key) for i in range(count)) == list(
            range(count)
        )
    if count > 14:
        orders = {
            tuple(order_module.permute(i, count, key=k) for i in range(count)) for k in (1, 2)
        }
        assert len(orders) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 300])
@pytest.mark.parametrize("key", [0, 7, 2**64 - 1])
def test_permute_is_a_feistel_network_of_six_rounds(count: int, key: int) -> None:
    """Over the smallest square of a power of two that holds all, walked until it is below count."""
    side = 1
    while side * side < count:
        side *= 2
    for index in {0, count // 3, count - 1}:
        value = index
        while True:
            left, right = divmod(value, side)
            for i in range(6):
                left, right = right, left ^ splitmix64((key, i, right)) % side
            value = left * side + right
            if value < count:
                break
        assert order_module.permute(index, count, key=key) == value
