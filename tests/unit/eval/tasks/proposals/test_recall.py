"""Counting found masks, by hand; test_coco128.py compares with pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sam_train.errors import UserError
from sam_train.eval.coco import TruthMask
from sam_train.eval.tasks.proposals.config import ProposalsConfig
from sam_train.eval.tasks.proposals.recall import average_recall, count_found
from sam_train.settings.sections import check_section
from sam_train.types import RLE


def block(columns: int) -> RLE:
    """The first columns of 100 x 100."""
    bitmap = np.zeros((100, 100), np.uint8, "F")
    bitmap[:, :columns] = 1
    rle = coco_mask.encode(bitmap)
    return RLE(size=[100, 100], counts=rle["counts"].decode())


def truth(columns: int, *, category: int = 1, crowd: bool = False) -> TruthMask:
    area = 100.0 * columns
    box = (0.0, 0.0, float(columns), 100.0)
    return TruthMask(
        id=columns, category=category, rle=block(columns), area=area, box=box, crowd=crowd
    )


def test_a_mask_is_found_once_by_the_surest_that_fits_it_best() -> None:
    masks = [truth(10, category=1), truth(50, category=2), truth(90, crowd=True)]
    # IoU with 50 columns: 1, 0.8, 0.2; with 10: 0.2, 0.25, 1.
    found = count_found(
        masks,
        [block(10), block(40), block(50)],
        [0.1, 0.9, 0.5],
        limit=1000,
        frequencies={1: "r", 2: "f"},
    )
    assert found["all"]["masks"] == 2
    first, ten, _, last = found["all"]["found"]
    assert first == [1] * 7 + [0] * 3
    # Above 0.8 the second takes it; the third finds the small mask.
    assert ten == last == [2] * 10
    assert {kind: found[kind]["masks"] for kind in found} == {
        "all": 2,
        "small": 1,
        "medium": 1,
        "frequent": 1,
        "rare": 1,
    }
    assert average_recall([found], "all") == pytest.approx([0.35, 1.0, 1.0, 1.0])
    assert average_recall([found], "common") is None
    none = count_found(masks, [], [], limit=1000, frequencies={})
    assert average_recall([found, none], "all") == pytest.approx([0.175, 0.5, 0.5, 0.5])


def test_only_so_many_count() -> None:
    wanted = [truth(50)]
    proposals, scores = [block(5), block(50)], [0.9, 0.1]
    found = count_found(wanted, proposals, scores, limit=1, frequencies={})
    assert average_recall([found], "all") == [0.0]
    found = count_found(wanted, proposals, scores, limit=10, frequencies={})
    assert average_recall([found], "all") == [0.0, 1.0]
    # A mask on the border of two sizes belongs to both.
    assert "small" not in found
    border = TruthMask(id=1, category=1, rle=block(50), area=96.0**2, box=(0, 0, 1, 1), crowd=False)
    assert {"medium", "large"} <= set(
        count_found([border], proposals, scores, limit=1, frequencies={})
    )


def test_settings_that_mean_nothing_are_refused() -> None:
    check_section(ProposalsConfig())
    for wrong in ({"limit": 0}, {"points_per_side": 0}, {"nms": 0.0}, {"nms": 1.5}):
        (name,) = wrong
        with pytest.raises(UserError, match=f"proposals.{name}="):
            check_section(ProposalsConfig(**wrong))  # type: ignore[arg-type]
