"""Crops and points: the same numbers as segment-anything's, and the pyramid of SA-1B."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import segment_anything_reference

from sam_train.masks.crops import crop_pyramid, point_grids

SA1B_OVERLAP = 512 / 1500


@pytest.fixture(scope="module")
def amg() -> Any:
    return segment_anything_reference.load().utils.amg


@pytest.mark.parametrize("size", [(1500, 2250), (1200, 1800), (480, 640), (101, 37), (9, 200)])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_crops_are_the_references(amg: Any, size: tuple[int, int], layers: int) -> None:
    boxes, layer_of = amg.generate_crop_boxes(size, layers, SA1B_OVERLAP)
    crops = crop_pyramid(*size, layers=layers, overlap_ratio=SA1B_OVERLAP)
    assert [[c.x0, c.y0, c.x1, c.y1] for c in crops] == boxes
    assert [c.layer for c in crops] == layer_of


def test_sa1b_has_21_crops_that_cover_the_photo() -> None:
    crops = crop_pyramid(1500, 2250, layers=2, overlap_ratio=SA1B_OVERLAP)
    assert Counter(crop.layer for crop in crops) == {0: 1, 1: 4, 2: 16}
    for layer in range(3):
        covered = np.zeros((1500, 2250), bool)
        for crop in crops:
            if crop.layer == layer:
                covered[crop.y0 : crop.y1, crop.x0 : crop.x1] = True
        assert covered.all()
    assert crops[1].xywh == [0, 0, 1381, 1006]


def test_points_are_the_references(amg: Any) -> None:
    for per_side, layers, factor in ((32, 2, 2), (7, 1, 3), (5, 0, 1)):
        grids = point_grids(per_side, layers=layers, downscale_factor=factor)
        wanted = amg.build_all_layer_point_grids(per_side, layers, factor)
        assert len(grids) == layers + 1
        for grid, want in zip(grids, wanted, strict=True):
            np.testing.assert_array_equal(grid, want)
    assert [len(g) for g in point_grids(32, layers=2, downscale_factor=2)] == [1024, 256, 64]
