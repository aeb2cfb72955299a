"""The deepest pixel of the error region against scipy's exact distance transform."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from sam_train.masks.error_region import Click, centre, deepest_error, mask_iou


@pytest.mark.parametrize("seed", range(40))
def test_deepest_pixel_as_scipy_finds_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 50, 2)
    a, b = (
        gaussian_filter(rng.normal(size=(height, width)), rng.uniform(0, 5)) > 0 for _ in range(2)
    )
    truth, predicted = a.astype(np.uint8), b.astype(np.uint8)
    missed, taken = (
        np.rint(distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1] ** 2)
        for region in (a & ~b, b & ~a)
    )
    click = deepest_error(predicted, truth)
    if not (a ^ b).any():
        assert click is None
        return
    foreground = missed.max() >= taken.max()
    depth = missed if foreground else taken
    row, column = np.unravel_index(np.argmax(depth), depth.shape)
    assert click == Click(row=int(row), column=int(column), foreground=bool(foreground))


def test_centre_of_a_ring_lies_on_the_ring() -> None:
    y, x = np.mgrid[:41, :61]
    radius = np.hypot(y - 20, x - 30)
    ring = ((radius < 18) & (radius > 10)).astype(np.uint8)
    click = centre(ring)
    assert click is not None
    assert click.foreground
    assert 12.5 < radius[click.row, click.column] < 15.5


def test_the_image_border_is_a_boundary() -> None:
    click = centre(np.ones((9, 21), dtype=np.uint8))
    assert click == Click(row=4, column=4, foreground=True)


def test_one_pixel_perfect_and_empty() -> None:
    one = np.zeros((5, 6), dtype=np.uint8)
    one[3, 2] = 1
    assert centre(one) == Click(row=3, column=2, foreground=True)
    assert deepest_error(one, one) is None
    assert deepest_error(one, np.zeros_like(one)) == Click(row=3, column=2, foreground=False)
    assert centre(np.zeros_like(one)) is None


def test_iou() -> None:
    a = np.array([[1, 1, 0], [0, 0, 0]], dtype=np.uint8)
    b = np.array([[0, 1, 1], [1, 0, 0]], dtype=np.uint8)
    assert mask_iou(a, b) == pytest.approx(1 / 4)
    assert mask_iou(a, a) == 1
    assert mask_iou(a * 0, a * 0) == 1
