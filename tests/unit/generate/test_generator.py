"""What the generator does beyond segment-anything's: the paper's two rules, what exists, and the
photos that it could not take. tests/parity holds it to the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sam_train
from data_tools.scenes import close_up
from sam_train.generate import AutomaticMaskGenerator
from sam_train.generate.existing import Existing
from sam_train.masks.changes import from_bitmap
from sam_train.model import Sam
from sam_train.model.load import load_sam

NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
LOOSE = {"points_per_side": 6, "pred_iou_thresh": 0.1, "stability_score_thresh": 0.1}
SIZE = (90, 120)


@pytest.fixture(scope="module")
def nano() -> Sam:
    return load_sam(NANO)


@pytest.fixture(scope="module")
def image() -> Any:
    return close_up(5, 0, height=SIZE[0], width=SIZE[1], zoom=2.0).image


def masks(nano: Sam, image: Any, existing: Existing | None = None, **more: Any) -> Any:
    generator = AutomaticMaskGenerator(nano, **{**LOOSE, **more})
    return generator.generate(image, existing)


def test_batches_decide_about_speed_only(nano: Sam, image: Any) -> None:
    crops = {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2}
    plain = masks(nano, image, **crops)
    assert len({tuple(m["crop_box"]) for m in plain}) > 1
    for batches in ({"points_per_batch": 7}, {"crops_per_batch": 2}, {"crops_per_batch": 9}):
        other = masks(nano, image, **crops, **batches)
        assert [m["point_coords"] for m in other] == [m["point_coords"] for m in plain]
        for a, b in zip(plain, other, strict=True):
            assert (a["segmentation"] != b["segmentation"]).sum() <= 2


def test_records_say_what_their_mask_is(nano: Sam, image: Any) -> None:
    found = masks(nano, image)
    assert len(found) > 3
    for record in found:
        rows, columns = np.nonzero(record["segmentation"])
        x, y, w, h = record["bbox"]
        assert (x, y) == (columns.min(), rows.min())
        assert (x + w, y + h) == (columns.max(), rows.max())
        assert record["area"] == len(rows)
        assert record["crop_box"] == [0, 0, SIZE[1], SIZE[0]]
        assert record["predicted_iou"] > 0.1
        assert record["stability_score"] >= 0.1


def test_masks_of_nearly_the_whole_photo_go(nano: Sam, image: Any) -> None:
    shares = sorted(m["area"] / image[..., 0].size for m in masks(nano, image, box_nms_thresh=1.0))
    limit = shares[len(shares) // 2]
    left = masks(nano, image, box_nms_thresh=1.0, max_area_fraction=limit)
    assert [m["area"] / image[..., 0].size < limit for m in left] == [True] * len(left)
    assert len(left) == sum(share < limit for share in shares) > 0


def test_masks_without_a_large_island_go(nano: Sam, image: Any) -> None:
    areas = sorted(m["area"] for m in masks(nano, image))
    limit = areas[len(areas) // 2] + 1
    kept = masks(nano, image, min_mask_region_area=limit)
    dropped = masks(nano, image, min_mask_region_area=limit, drop_small_masks=True)
    assert min(m["area"] for m in kept) < limit
    assert min(m["area"] for m in dropped) >= limit


def test_nothing_is_proposed_where_all_is_annotated(nano: Sam, image: Any) -> None:
    everything = Existing.of([from_bitmap(np.ones(SIZE, bool))], SIZE)
    assert masks(nano, image, everything) == []
    nothing = Existing.of([], SIZE)
    assert len(masks(nano, image, nothing)) == len(masks(nano, image))


def test_what_is_like_an_existing_mask_goes_before_it_suppresses(nano: Sam, image: Any) -> None:
    best = masks(nano, image)[0]["segmentation"]
    # Half of the points are still free, some of which find that mask again.
    half = best.copy()
    half[:, np.flatnonzero(best.any(axis=0)).mean().astype(int) :] = False
    existing = Existing.of([from_bitmap(half), from_bitmap(best)], SIZE)
    existing.covered[:] = half
    for record in masks(nano, image, existing, existing_iou_thresh=0.6):
        mask = record["segmentation"]
        (x, y), = record["point_coords"]  # fmt: skip
        assert not half[int(y), int(x)]
        assert (mask & best).sum() < 0.6 * (mask | best).sum()


def test_no_masks_at_all_are_an_empty_list(nano: Sam, image: Any) -> None:
    """segment-anything's class raises IndexError where no crop has any."""
    assert masks(nano, image, pred_iou_thresh=2.0, crop_n_layers=1) == []


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("thresholds", [0.1, 0.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 200), (90, 1), (3, 3)])
def test_each_mask_once_where_boxes_have_no_area(
    nano: Sam, size: tuple[int, int], layers: int, thresholds: float
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    names = ("pred_iou_thresh", "stability_score_thresh")
    found = masks(nano, image, crop_n_layers=layers, **dict.fromkeys(names, thresholds))
    pixels = [record["segmentation"].tobytes() for record in found]
    assert 1 <= len(pixels) == len(set(pixels))
    assert all(record["segmentation"].any() for record in found)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 200)])
def test_photos_of_a_few_pixels(nano: Sam, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 128, np.uint8)
    for record in masks(nano, image, crop_n_layers=2, min_mask_region_area=10):
        assert record["segmentation"].shape == size
