"""Cells, frames and real IoU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sam_train.masks.grid import cell_to_input, mask_iou, to_grid, valid_grid


@settings(max_examples=40, deadline=None)
@given(h=st.integers(1, 64), w=st.integers(1, 64), grid=st.sampled_from([16, 64]))
def test_valid_cells_have_their_centre_in_the_photo(h: int, w: int, grid: int) -> None:
    sizes = torch.tensor([[64, 64], [h, w]])
    valid = valid_grid(sizes, torch.tensor([1, 0, 1]), grid=grid, image_size=64)
    cell = 64 / grid
    for i in range(0, grid, 3):
        for j in range(0, grid, 3):
            assert valid[0, i, j] == ((i + 0.5) * cell < h and (j + 0.5) * cell < w)
    assert valid[1].all()
    assert torch.equal(valid[0], valid[2])


def test_cell_centres_are_x_y_pixel_indices() -> None:
    """Cell (row 2, column 5) of a quarter grid covers pixels 8..11 down and 20..23 across."""
    xy = cell_to_input(torch.tensor([[2, 5]]), grid=256, image_size=1024)
    assert xy.tolist() == [[21.5, 9.5]]
    assert cell_to_input(torch.tensor([[3, 0]]), grid=64, image_size=64).tolist() == [[0.0, 3.0]]


def test_to_grid_samples_the_cell_centre() -> None:
    masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    masks[0, 4:8, 8:12] = 1  # exactly cell (1, 2) of a grid of 4
    masks[0, 4, :4] = masks[0, :4, 4] = 1  # too thin to reach a centre
    expected = torch.zeros(1, 4, 4, dtype=torch.bool)
    expected[0, 1, 2] = True
    assert torch.equal(to_grid(masks, 4), expected)
    assert torch.equal(to_grid(masks, 16), masks.bool())


@pytest.mark.parametrize(("side", "grid"), [(196, 56), (56, 16), (70, 20), (256, 64), (9, 2)])
def test_to_grid_takes_the_pixel_under_the_centre(side: int, grid: int) -> None:
    """Also with patches of 14, whose cells are 3.5 pixels wide."""
    masks = torch.rand(2, side, side, generator=torch.Generator().manual_seed(side)) > 0.5
    expected = F.interpolate(masks[:, None].float(), (grid, grid), mode="nearest-exact")[:, 0]
    assert torch.equal(to_grid(masks, grid), expected.bool())


def test_iou_by_hand() -> None:
    target = torch.tensor([[[1, 1], [0, 1]]]).bool()
    valid = torch.tensor([[[1, 1], [1, 0]]]).bool()  # the last cell is padding
    logits = torch.tensor(
        [[[[1.0, -1], [1, 1]], [[1, 1], [-1, -1]], [[-1, -1], [-1, 1]], [[0, 3], [-1, 1]]]]
    )
    assert mask_iou(logits, target, valid).tolist() == [[pytest.approx(1 / 3), 1.0, 0.0, 0.5]]


def test_iou_of_nothing_with_nothing_is_zero() -> None:
    empty = torch.zeros(1, 4, 4).bool()
    assert mask_iou(-torch.ones(1, 1, 4, 4), empty, ~empty).item() == 0
