"""Holes and islands on runs against segment-anything's way over bitmaps."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import segment_anything_reference
from scipy import ndimage

from sam_train.masks.changes import area_of, bitmap, box_of, from_bitmap
from sam_train.masks.regions import tidy


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "cv2", segment_anything_reference.with_cv2())
    return segment_anything_reference.load().utils.amg.remove_small_regions


def blobs(seed: int, *, height: int, width: int, blur: float, share: float) -> Any:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((height, width)), blur)
    return field > np.quantile(field, 1 - share)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("min_area", [5, 40, 10_000])
def test_the_same_mask_as_the_reference(reference: Any, seed: int, min_area: int) -> None:
    height, width = 40 + 7 * seed, 90 - 5 * seed
    mask = blobs(seed, height=height, width=width, blur=0.6 + seed / 6, share=(seed + 1) / 13)
    filled, closed = reference(mask, min_area, mode="holes")
    wanted, opened = reference(filled, min_area, mode="islands")
    found = tidy(from_bitmap(mask), mask.shape, min_area=min_area, keep_largest=True)
    assert found.altered == (closed or opened)
    np.testing.assert_array_equal(bitmap(found.changes, mask.shape), wanted)
    rows, columns = np.nonzero(wanted)
    assert area_of(found.changes, mask.shape) == len(rows)
    assert box_of(found.changes, mask.shape) == [
        columns.min(), rows.min(), columns.max(), rows.max()
    ]  # fmt: skip


def test_corners_connect() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = True
    mask[5, 0] = True
    found = tidy(from_bitmap(mask), (6, 6), min_area=3, keep_largest=True)
    mask[5, 0] = False
    np.testing.assert_array_equal(bitmap(found.changes, (6, 6)), mask)


def test_the_paper_drops_what_has_no_large_island() -> None:
    mask = np.zeros((30, 30), bool)
    mask[2:5, 2:5] = mask[20:24, 10:14] = True
    kept = tidy(from_bitmap(mask), mask.shape, min_area=100, keep_largest=True)
    mask[2:5, 2:5] = False
    np.testing.assert_array_equal(bitmap(kept.changes, mask.shape), mask)
    dropped = tidy(from_bitmap(mask), mask.shape, min_area=100, keep_largest=False)
    assert len(dropped.changes) == 0


@pytest.mark.parametrize("value", [False, True])
def test_masks_of_one_value_stay(value: bool) -> None:
    changes = from_bitmap(np.full((9, 7), value))
    found = tidy(changes, (9, 7), min_area=5, keep_largest=True)
    assert not found.altered
    np.testing.assert_array_equal(found.changes, changes)
