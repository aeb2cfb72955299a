"""Clicks on the error region: where they fall and what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from sam_train.prompts.clicks import Clicks, error_click, error_region, uniform_click
from sam_train.types import BACKGROUND, FOREGROUND

regions = hnp.arrays(np.bool_, st.tuples(st.integers(1, 4), st.just(7), st.just(7)))


@settings(max_examples=80, deadline=None)
@given(region=regions, u=st.floats(0, 1, exclude_max=True))
def test_the_rank_counts_row_by_row(region: np.ndarray, u: float) -> None:
    """Against numpy's own list of the region's cells."""
    masks = torch.from_numpy(region)
    cells = uniform_click(masks, torch.full((len(region),), u, dtype=torch.float64))
    for m, one in enumerate(region):
        listed = np.argwhere(one)
        assert bool(cells.found[m]) == (len(listed) > 0)
        assert bool(((cells.cell[m] >= 0) & (cells.cell[m] < 7)).all())
        if len(listed):
            assert cells.cell[m].tolist() == listed[int(u * len(listed))].tolist()


def test_the_last_rank_is_never_passed() -> None:
    region = torch.ones(1, 8, 8, dtype=torch.bool)
    u = torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0]))
    assert uniform_click(region, u).cell.tolist() == [[7, 7]]
    region[0, 3:] = False
    region[0, 2, 5:] = False
    assert uniform_click(region, torch.ones(1)).cell.tolist() == [[2, 4]]


def test_an_empty_region_is_not_found_and_names_a_cell_all_the_same() -> None:
    region = torch.zeros(3, 5, 5, dtype=torch.bool)
    region[1, 4, 2] = True
    for u in (0.0, 0.5, 1.0):
        cells = uniform_click(region, torch.full((3,), u))
        assert cells.found.tolist() == [False, True, False]
        assert cells.cell.tolist() == [[0, 0], [4, 2], [0, 0]]


def test_clicks_are_uniform_over_the_region() -> None:
    region = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)) < 0.3
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cell = uniform_click(region.expand(20_000, 12, 12), u).cell
    counts = torch.bincount(cell[:, 0] * 12 + cell[:, 1], minlength=144)
    assert counts[~region.flatten()].sum() == 0
    assert stats.chisquare(counts[region.flatten()].numpy()).pvalue > 1e-3


def click(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    valid: torch.Tensor | None = None,
    point: tuple[float, float] = (1.0, 2.0),
    u: float = 0.5,
) -> Clicks:
    """One click on one mask of a grid of side 8 over an input of side 32."""
    return error_click(
        logits[None],
        targets=target[None],
        valid=torch.ones(1, 8, 8, dtype=torch.bool) if valid is None else valid[None],
        points=torch.tensor([point]),
        u=torch.tensor([u], dtype=torch.float64),
        image_size=32,
    )


def square(row: int, column: int, side: int = 1) -> torch.Tensor:
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[row : row + side, column : column + side] = True
    return mask


def as_logits(mask: torch.Tensor) -> torch.Tensor:
    return mask.float() * 2 - 1


def test_a_missed_part_is_clicked_as_foreground() -> None:
    """One missed cell in row 1, column 6: x = 6.5 * 4 - 0.5, y = 1.5 * 4 - 0.5."""
    got = click(as_logits(square(4, 4)), square(4, 4) | square(1, 6))
    assert got.coords.tolist() == [[25.5, 5.5]]
    assert got.labels.tolist() == [FOREGROUND]


def test_what_was_wrongly_taken_is_clicked_as_background() -> None:
    got = click(as_logits(square(4, 4) | square(6, 2)), square(4, 4))
    assert got.coords.tolist() == [[9.5, 25.5]]
    assert got.labels.tolist() == [BACKGROUND]


@settings(max_examples=60, deadline=None)
@given(
    predicted=hnp.arrays(np.bool_, (8, 8)),
    target=hnp.arrays(np.bool_, (8, 8)),
    h=st.integers(1, 8),
    w=st.integers(1, 8),
    u=st.floats(0, 1, exclude_max=True),
)
def test_every_click_is_true_and_in_the_photo(
    predicted: np.ndarray, target: np.ndarray, h: int, w: int, u: float
) -> None:
    valid = np.zeros((8, 8), bool)
    valid[:h, :w] = True
    got = click(
        as_logits(torch.from_numpy(predicted)),
        torch.from_numpy(target),
        valid=torch.from_numpy(valid),
        u=u,
    )
    errors = (predicted != target) & valid
    if not errors.any() and not (target & valid).any():
        assert got.coords.tolist() == [[1.0, 2.0]]
        assert got.labels.tolist() == [FOREGROUND]
        return
    x, y = got.coords[0].tolist()
    column, row = (x + 0.5) / 4 - 0.5, (y + 0.5) / 4 - 0.5
    assert column == int(column) and row == int(row)
    i, j = int(row), int(column)
    assert (errors if errors.any() else target & valid)[i, j]
    assert got.labels.item() == (FOREGROUND if target[i, j] else BACKGROUND)


def test_a_perfect_mask_is_clicked_inside() -> None:
    target = square(2, 3, side=3)
    clicks = [click(as_logits(target), target, u=u / 9) for u in range(9)]
    assert all(c.labels.tolist() == [FOREGROUND] for c in clicks)
    assert {tuple(c.coords[0].tolist()) for c in clicks} == {
        (4 * j + 1.5, 4 * i + 1.5) for i in (2, 3, 4) for j in (3, 4, 5)
    }


@pytest.mark.parametrize("corner", [(0, 0), (0, 7), (7, 0), (7, 7)])
def test_a_one_cell_mask_in_a_corner(corner: tuple[int, int]) -> None:
    got = click(as_logits(torch.zeros(8, 8)), square(*corner))
    assert got.coords.tolist() == [[4 * corner[1] + 1.5, 4 * corner[0] + 1.5]]
    assert got.labels.tolist() == [FOREGROUND]


def test_a_vanished_mask_falls_back_on_its_exact_point() -> None:
    nothing = torch.zeros(8, 8, dtype=torch.bool)
    got = click(as_logits(nothing), nothing, point=(13.25, 7.5))
    assert got.coords.tolist() == [[13.25, 7.5]]
    assert got.labels.tolist() == [FOREGROUND]


def test_a_vanished_mask_still_corrects_what_was_taken() -> None:
    got = click(as_logits(square(5, 5)), torch.zeros(8, 8, dtype=torch.bool))
    assert got.coords.tolist() == [[21.5, 21.5]]
    assert got.labels.tolist() == [BACKGROUND]


def test_logit_zero_counts_as_background() -> None:
    zero = torch.zeros(1, 8, 8)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    assert torch.equal(error_region(zero, valid, valid), valid)
    assert not error_region(zero, ~valid, valid).any()
    assert not error_region(zero + 1e-6, valid, valid).any()
