"""The readers on the data sets themselves, found as `READER:PATH` finds them."""

from __future__ import annotations

import pytest
from places import REAL_DATA
from pycocotools import mask as coco_mask

from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets import open_datasets

DATA = REAL_DATA

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no real data at ../shared/data")


@pytest.mark.parametrize(
    ("reader", "folder", "images", "skipped"),
    [
        ("coco", "coco128", 128, {"mask: crowd": 10}),
        ("bsds", "bsds500", 100, {}),
        ("rle", "dsb2018", 269, {}),
        (
            "ade20k",
            "ade20k/ADE20K_2021_17_01",
            3,
            {"file: PNG that is no x_seg or x_parts of a photo, not needed": 139},
        ),
    ],
)
def test_where_they_lie(reader: str, folder: str, images: int, skipped: dict[str, int]) -> None:
    cfg = EvalConfig(datasets=f"{reader}:{DATA / folder}", masks=None)
    (found,) = open_datasets(cfg)
    assert (len(found.images), found.of, found.skipped) == (images, images, skipped)
    sample = found.images[0].load()
    assert len(sample.masks) == len(sample.names) == len(sample.areas) > 1
    for mask, area in zip(sample.masks, sample.areas, strict=True):
        assert tuple(mask["size"]) == sample.size
        assert coco_mask.decode(mask).sum() == area
