"""Several run lengths of one mask: their union, with pycocotools as the reference."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

from sam_train.masks.runs import as_segmentation, union_rle


def test_union_is_that_of_the_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width, count = rng.integers(1, 9), rng.integers(1, 9), rng.integers(1, 5)
        share = rng.choice([0.0, 0.3, 0.7, 1.0])
        masks = [rng.random((height, width)) < share for _ in range(count)]
        runs = [as_segmentation(coco_mask.encode(np.asfortranarray(m, np.uint8))) for m in masks]
        whole = coco_mask.encode(np.asfortranarray(np.any(masks, axis=0), np.uint8))
        assert union_rle(runs) == as_segmentation(whole)
