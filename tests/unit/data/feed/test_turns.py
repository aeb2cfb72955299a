"""Steps of several turns: their masks, and a loader that never stands still."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from sam_train.data.feed.turns import Turns
from sam_train.errors import UserError
from sam_train.types import Batch


def batch(number: int) -> Batch:
    """One photo with `number` masks."""
    empty = torch.zeros(0)
    return Batch(
        images=empty,
        image_sizes=empty,
        original_sizes=empty,
        masks=empty,
        points=torch.zeros(number, 2),
        boxes=empty,
        image_index=torch.zeros(number, dtype=torch.int64),
        mask_ids=empty,
        keys=[f"sa_{number}"],
        positions=[number],
    )


class Source:
    """Batches of 1, 2, 3, ... masks; knows how many were drawn, and how many are still held."""

    def __init__(self, number: int, *, fails: bool = False) -> None:
        self.number, self.fails = number, fails
        self.drawn: list[Any] = []

    def __iter__(self) -> Iterator[Batch]:
        for k in range(1, self.number + 1):
            made = batch(k)
            self.drawn.append(weakref.ref(made.points))
            yield made
            del made
        if self.fails:
            raise UserError("the disk is gone")

    @property
    def held(self) -> int:
        return sum(ref() is not None for ref in self.drawn)


def turns(source: Source, number: int) -> Iterator[Batch]:
    return iter(Turns(source, turns=number))  # type: ignore[arg-type]


def test_each_turn_knows_the_masks_of_its_step() -> None:
    seen = list(turns(Source(11), 3))
    assert [b.positions for b in seen] == [[k] for k in range(1, 10)]  # 10 and 11 fill no step
    assert [b.step_masks for b in seen] == [6] * 3 + [15] * 3 + [24] * 3


@pytest.mark.parametrize("number", [1, 2, 16])
def test_one_is_drawn_for_each_that_is_handed_out(number: int) -> None:
    source = Source(10 * number)
    for given, _ in enumerate(islice(turns(source, number), 5 * number)):
        assert len(source.drawn) == number + given
        assert source.held <= number  # no second step in memory


def test_an_error_of_the_loader_arrives() -> None:
    batches = turns(Source(5, fails=True), 2)
    assert [next(batches).positions for _ in range(2)] == [[1], [2]]
    with pytest.raises(UserError, match="the disk is gone"):
        list(batches)
