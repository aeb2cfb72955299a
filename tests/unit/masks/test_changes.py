"""Run lengths against pycocotools, and what is read off them against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from sam_train.generate.existing import Existing
from sam_train.masks.changes import (
    area_of,
    bitmap,
    box_of,
    compressed,
    from_bitmap,
    from_coco,
    run_lengths,
)
from sam_train.types import RLE


def some_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    masks = [rng.random((13, 21)) < share for share in (0.02, 0.3, 0.9)]
    edges = np.zeros((13, 21), bool)
    edges[0, 0] = edges[-1, -1] = edges[-1, 3] = edges[0, 4] = True
    return [*masks, edges, np.ones((13, 21), bool), np.zeros((13, 21), bool)]


@pytest.mark.parametrize("mask", some_masks(), ids=lambda m: str(int(m.sum())))
def test_as_pycocotools_has_it(mask: np.ndarray) -> None:
    changes = from_bitmap(mask)
    wanted = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert compressed(changes, mask.shape)["counts"] == wanted["counts"].decode()
    assert compressed(changes, mask.shape)["size"] == wanted["size"]
    np.testing.assert_array_equal(bitmap(changes, mask.shape), mask)
    np.testing.assert_array_equal(from_coco(RLE(**wanted)), changes)
    assert sum(run_lengths(changes, mask.shape)) == mask.size
    assert area_of(changes, mask.shape) == mask.sum()
    x, y, w, h = coco.toBbox(wanted).astype(int).tolist()
    assert box_of(changes, mask.shape) == ([x, y, x + w - 1, y + h - 1] if mask.any() else [0] * 4)


def test_existing_masks_overlap_as_bitmaps_do() -> None:
    masks = some_masks()
    existing = Existing.of([from_bitmap(m) for m in masks[:2]], (13, 21))
    for mask in masks:
        ious = [(mask & m).sum() / max((mask | m).sum(), 1) for m in masks[:2]]
        changes = from_bitmap(mask)
        box = np.array(box_of(changes, mask.shape))
        assert existing.best_iou(changes, box, int(mask.sum())) == pytest.approx(max(ious))


def test_points_on_existing_masks_are_not_free() -> None:
    mask = np.zeros((10, 20), bool)
    mask[4:6, 10:15] = True
    existing = Existing.of([from_bitmap(mask), np.empty(0, np.int32)], (10, 20))
    points = np.array([[10.0, 4.0], [14.9, 5.9], [15.0, 5.0], [9.9, 4.0], [20.0, 10.0]])
    assert existing.free(points).tolist() == [False, False, True, True, True]
    assert len(existing.changes) == 1
