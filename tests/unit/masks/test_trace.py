"""Masks straight from the grid against upscaling with torch, thresholding and looking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_train.masks.changes import bitmap
from sam_train.masks.crops import Crop
from sam_train.masks.frame import InputFrame
from sam_train.masks.trace import Traced, trace_masks

# Cells, input side, height and width of the crop: enlarged, reduced, the same, and narrow.
SIZES = [
    (32, 128, 200, 150),
    (64, 256, 311, 467),
    (32, 128, 70, 120),
    (96, 192, 400, 192),
    (48, 192, 192, 192),
    (32, 128, 600, 9),
]


def smooth(cells: int, *, seed: int, count: int = 6, coarse: int = 6, size: float = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    grid = size * torch.randn(count, 1, coarse, coarse, generator=generator)
    return F.interpolate(grid, (cells, cells), mode="bicubic")[:, 0]


def upscaled(logits: Tensor, side: int, crop: tuple[int, int]) -> Tensor:
    """As `Sam.postprocess` does."""
    height, width = InputFrame(original=crop, side=side).size
    x = F.interpolate(logits[:, None], (side, side), mode="bilinear", align_corners=False)
    x = F.interpolate(x[..., :height, :width], crop, mode="bilinear", align_corners=False)
    return x[:, 0]


def traced(logits: Any, side: int, size: tuple[int, int], **more: Any) -> Traced:
    crop = Crop(x0=0, y0=0, x1=size[1], y1=size[0], layer=0)
    given = {"crop": crop, "photo": size, "image_size": side, "offset": 1.0, **more}
    return trace_masks(np.asarray(logits), **given)


def assert_agrees(found: Traced, pixels: Tensor, offset: float = 1.0) -> None:
    """Every number of `found` is that of the upscaled logits."""
    masks = (pixels > 0).numpy()
    np.testing.assert_array_equal(found.areas, masks.sum((1, 2)))
    np.testing.assert_array_equal(found.weak, (pixels > -offset).sum((1, 2)))
    np.testing.assert_array_equal(found.strong, (pixels > offset).sum((1, 2)))
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(bitmap(found.changes[k], mask.shape), mask)
        assert (np.diff(found.changes[k]) > 0).all()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0] * 4
        assert found.boxes[k].tolist() == box


@pytest.mark.parametrize(("cells", "side", "height", "width"), SIZES)
@pytest.mark.parametrize("size", [0.3, 3.0, 300.0])
def test_pixel_for_pixel_as_upscaling(
    cells: int, side: int, height: int, width: int, size: float
) -> None:
    logits = smooth(cells, seed=height, size=size)
    assert_agrees(traced(logits, side, (height, width)), upscaled(logits, side, (height, width)))


def test_noise_needs_more_room_than_was_taken() -> None:
    logits = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = traced(logits, 256, (300, 400))
    assert min(len(changes) for changes in found.changes) > 8000
    assert_agrees(found, upscaled(logits, 256, (300, 400)))


def test_full_empty_and_undefined_masks() -> None:
    logits = torch.stack([torch.full((32, 32), v) for v in (5.0, -5.0, 0.5, torch.nan)])
    found = traced(logits, 128, (90, 120))
    assert_agrees(found, upscaled(logits, 128, (90, 120)))
    assert [len(changes) for changes in found.changes] == [1, 0, 1, 0]
    np.testing.assert_array_equal(found.stability, np.array([1, np.nan, 0, np.nan], np.float32))


@pytest.mark.parametrize("offset", [0.0, 0.25, 40.0])
def test_other_offsets(offset: float) -> None:
    logits = smooth(32, seed=1, size=20)
    found = traced(logits, 128, (100, 160), offset=offset)
    assert_agrees(found, upscaled(logits, 128, (100, 160)), offset)


@pytest.mark.parametrize(("x0", "y0"), [(0, 0), (30, 0), (0, 20), (30, 20), (10, 7)])
def test_a_crop_lies_in_its_photo(x0: int, y0: int) -> None:
    """Corners, where runs end with the crop, with the photo, or not at all."""
    size, photo = (100, 130), (120, 160)
    logits = torch.cat([smooth(32, seed=2), torch.ones(1, 32, 32)])
    crop = Crop(x0=x0, y0=y0, x1=x0 + size[1], y1=y0 + size[0], layer=1)
    found = traced(logits, 128, size, crop=crop, photo=photo)
    for changes, pixels in zip(found.changes, upscaled(logits, 128, size), strict=True):
        whole = np.zeros(photo, bool)
        whole[y0 : y0 + size[0], x0 : x0 + size[1]] = pixels > 0
        np.testing.assert_array_equal(bitmap(changes, photo), whole)
        assert not len(changes) or changes[-1] < photo[0] * photo[1]


def test_no_masks() -> None:
    assert traced(torch.empty(0, 32, 32), 128, (50, 60)).changes == []


# Cells, input side, height and width of the crop: one pixel per cell, and fewer.
SMALL = [(12, 12, 12, 12), (12, 12, 12, 7), (12, 12, 7, 12), (24, 24, 12, 12), (12, 24, 24, 5)]


@pytest.mark.parametrize(("cells", "side", "height", "width"), SMALL)
@pytest.mark.parametrize("size", [0.7, 5.0, 500.0])
def test_neighbours_that_have_nothing_in_common(
    cells: int, side: int, height: int, width: int, size: float
) -> None:
    """Noise, columns, rows and a checkerboard: no two rows or columns of cells are alike."""
    generator = torch.Generator().manual_seed(cells + height)
    noise = torch.randn(6, cells, cells, generator=generator)
    sign = 1 - 2 * (torch.arange(cells) % 2)
    stripes = torch.stack([sign.expand(cells, cells), sign[:, None].expand(cells, cells)])
    logits = size * torch.cat([noise, stripes, (sign * sign[:, None])[None]])
    assert_agrees(traced(logits, side, (height, width)), upscaled(logits, side, (height, width)))


@pytest.mark.parametrize("offset", [0.5, 2.0])
def test_one_pixel_has_an_area_and_a_box(offset: float) -> None:
    """In each corner, on an edge and inside, in a crop and alone; above all thresholds or one."""
    places = [(0, 0), (0, 9), (9, 0), (9, 9), (0, 4), (5, 9), (3, 6)]
    logits = torch.full((len(places), 10, 10), -5.0)
    for k, (row, column) in enumerate(places):
        logits[k, row, column] = 5.0 if k % 2 else 1.0
    found = traced(logits, 10, (10, 10), offset=offset)
    assert_agrees(found, upscaled(logits, 10, (10, 10)), offset)
    assert found.areas.tolist() == [1] * len(places)
    crop = Crop(x0=3, y0=2, x1=13, y1=12, layer=1)
    found = traced(logits, 10, (10, 10), crop=crop, photo=(14, 15), offset=offset)
    for changes, (row, column) in zip(found.changes, places, strict=True):
        place = (column + 3) * 14 + row + 2
        assert changes.tolist() == [place, place + 1]
    assert found.boxes.tolist() == [[x, y, x, y] for y, x in places]


def test_values_on_a_threshold_are_below_it() -> None:
    """`>` as in torch, at the mask's own threshold and at the two others."""
    logits = torch.tensor([-1.0, 0.0, 1.0])[:, None, None].expand(3, 8, 8).contiguous()
    found = traced(logits, 8, (8, 8), offset=1.0)
    assert_agrees(found, upscaled(logits, 8, (8, 8)))
    assert found.weak.tolist() == [0, 64, 64]
    assert found.areas.tolist() == [0, 0, 64]
    assert found.strong.tolist() == [0, 0, 0]


@pytest.mark.parametrize("margin", [0.0005, 0.002, -0.0005, -0.002])
@pytest.mark.parametrize("offset", [1.0, 100.0])
def test_values_beside_a_threshold(margin: float, offset: float) -> None:
    """Half and twice the margin within which pixels are interpolated; one cell differs."""
    logits = torch.stack(
        [torch.full((16, 16), cut + margin * max(1, offset)) for cut in (-offset, 0.0, offset)]
    )
    logits[:, 7, 4] -= 3 * margin * max(1, offset)
    found = traced(logits, 32, (40, 30), offset=offset)
    assert_agrees(found, upscaled(logits, 32, (40, 30)), offset)


def test_stability_is_the_share_of_the_weak_that_is_strong() -> None:
    logits = smooth(32, seed=4)
    pixels = upscaled(logits, 128, (90, 70))
    found = traced(logits, 128, (90, 70), offset=0.5)
    expected = ((pixels > 0.5).sum((1, 2)) / (pixels > -0.5).sum((1, 2))).float().numpy()
    np.testing.assert_array_equal(found.stability, expected)
    assert found.stability.dtype == np.float32
