"""The counter-based generator against python integers, and its statistics against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sam_train.prompts.rng import Draw, Stream, normal, number_below, uniform, words

WORD = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """The finaliser as published, on python's unbounded integers."""
    z = state & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def reference(key_parts: tuple[int, int, int, int], *, id_: int, draw: int) -> int:
    golden = 0x9E3779B97F4A7C15
    key = 0
    for part in key_parts:
        key = splitmix64(key + (part + 1) * golden)
    return splitmix64(splitmix64(id_ * golden + key) + (draw + 1) * golden)


def test_reference_is_splitmix64() -> None:
    """First outputs of the published generator from state 0 (Vigna's splitmix64.c)."""
    golden = 0x9E3779B97F4A7C15
    assert [splitmix64(golden * k) for k in (1, 2, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 10**7),
    stream=st.integers(0, 100),
    index=st.integers(0, 100),
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
)
def test_equals_python_integers(
    seed: int, step: int, stream: int, index: int, ids: list[int]
) -> None:
    tensor = torch.tensor(ids, dtype=torch.int64)
    got = words(seed, step, stream, tensor, index=index, count=3)
    expected = [
        [reference((seed, step, stream, index), id_=i, draw=n) for n in range(3)] for i in ids
    ]
    assert [[w & WORD for w in row] for row in got.tolist()] == expected
    floats = uniform(seed, step, stream, tensor, index=index, count=3)
    assert floats.tolist() == [[(w >> 11) / 2**53 for w in row] for row in expected]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
def test_gpu_equals_cpu() -> None:
    ids = torch.arange(1000) * 7919
    on_gpu = ids.cuda()
    assert torch.equal(uniform(1, 2, 3, ids, count=4), uniform(1, 2, 3, on_gpu, count=4).cpu())
    torch.testing.assert_close(
        normal(1, 2, 3, ids, count=4), normal(1, 2, 3, on_gpu, count=4).cpu(), rtol=1e-12, atol=0
    )


def test_uniform_is_uniform() -> None:
    values = uniform(3, 5, Stream.CLICK, torch.arange(50_000), count=4).numpy()
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 1e-3
    counts = np.histogram(values, bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_normal_is_normal() -> None:
    values = normal(3, 5, Stream.BOX_NOISE, torch.arange(50_000), count=4).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    assert abs(values.mean()) < 4 / math.sqrt(values.size)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / values.size)
    correlation = np.corrcoef(values.T) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(len(values))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"step": 1},
        {"stream": Stream.BOX_NOISE},
        {"index": 1},
        {"ids": torch.arange(1, 50_001)},
    ],
    ids=lambda o: next(iter(o)),
)
def test_neighbours_are_independent(other: dict[str, object]) -> None:
    base = {"seed": 0, "step": 0, "stream": Stream.CLICK, "index": 0, "ids": torch.arange(50_000)}
    x, y = (
        uniform(
            a["seed"],  # type: ignore[arg-type]
            a["step"],  # type: ignore[arg-type]
            a["stream"],  # type: ignore[arg-type]
            a["ids"],  # type: ignore[arg-type]
            index=a["index"],  # type: ignore[arg-type]
        )[:, 0].numpy()
        for a in (base, base | other)
    )
    assert abs(np.corrcoef(x, y)[0, 1]) < 5 / math.sqrt(len(x))
    table = np.histogram2d(x, y, bins=16, range=((0, 1), (0, 1)))[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


def test_a_mask_draws_the_same_in_any_company() -> None:
    ids = torch.tensor([5, 17, 3, 99])
    whole = Draw(seed=1, step=2, ids=ids).normal(Stream.BOX_NOISE, count=4)
    alone = [Draw(seed=1, step=2, ids=i[None]).normal(Stream.BOX_NOISE, count=4) for i in ids]
    assert torch.equal(whole, torch.cat(alone))


def test_more_draws_keep_the_first() -> None:
    ids = torch.arange(6)
    assert torch.equal(uniform(0, 0, 1, ids, count=2), uniform(0, 0, 1, ids, count=9)[:, :2])


def test_streams_keep_their_numbers() -> None:
    """Another number is another run: checkpoints would not continue as they began."""
    assert {stream.name: int(stream) for stream in Stream} == {
        "FIRST_PROMPT": 1,
        "BOX_NOISE": 2,
        "MASK_ONLY_ROUND": 3,
        "CLICK": 4,
        "LOSS_POINTS": 5,
        "DROP_PATH": 6,
        "LEARNT_ROUND": 7,
        "LOOSE_BOX": 8,
        "SECOND_POINT": 9,
    }


@pytest.mark.parametrize("name", ["words", "uniform", "normal"])
def test_one_draw_of_index_zero_unless_more_is_asked_for(name: str) -> None:
    ids = torch.tensor([3, -8, 2**40])
    function = {"words": words, "uniform": uniform, "normal": normal}[name]
    alone = function(1, 2, Stream.CLICK, ids)
    assert alone.shape == (3, 1)
    assert torch.equal(alone, function(1, 2, Stream.CLICK, ids, index=0, count=1))
    if name == "words":
        keys = (1, 2, int(Stream.CLICK), 0)
        assert [w & WORD for w in alone[:, 0].tolist()] == [
            reference(keys, id_=i, draw=0) for i in ids.tolist()
        ]
        return
    method = getattr(Draw(seed=1, step=2, ids=ids), name)
    assert torch.equal(method(Stream.CLICK), alone)
    for index, count in ((1, 1), (0, 3), (7, 2)):
        expected = function(1, 2, Stream.CLICK, ids, index=index, count=count)
        assert torch.equal(method(Stream.CLICK, index=index, count=count), expected)


def test_normal_is_box_and_muller_of_the_same_bits() -> None:
    """Of 2 n words the first n give the radius and the last n the angle."""
    ids = torch.tensor([0, 5, 77])
    got = normal(4, 9, Stream.BOX_NOISE, ids, index=2, count=3)
    for i, row in zip(ids.tolist(), got.tolist(), strict=True):
        keys = (4, 9, int(Stream.BOX_NOISE), 2)
        parts = [((reference(keys, id_=i, draw=n) >> 11) + 1) / 2**53 for n in range(6)]
        expected = [
            math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle)
            for radius, angle in zip(parts[:3], parts[3:], strict=True)
        ]
        assert row == pytest.approx(expected, rel=1e-12)


def test_a_number_on_the_host_is_uniform_and_that_of_the_step() -> None:
    draws = [
        number_below(11, seed=3, step=step, stream=Stream.LEARNT_ROUND) for step in range(11_000)
    ]
    counts = np.bincount(draws, minlength=11)
    assert stats.chisquare(counts).pvalue > 1e-3
    again = [number_below(11, seed=3, step=s, stream=Stream.LEARNT_ROUND) for s in range(50)]
    assert again == draws[:50]
    assert again != [
        number_below(11, seed=4, step=s, stream=Stream.LEARNT_ROUND) for s in range(50)
    ]
