"""Suppression of boxes against a plain loop in the words of torchvision's documentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything_reference import batched_nms

from sam_train.generate.nms import nms


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_it_keeps_what_torchvision_keeps(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 40, (300, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 30, (300, 2))], axis=1)
    boxes[::50] = 0  # what empty masks have
    # Few values: ties are settled by place.
    scores = rng.integers(0, 20, 300).astype(np.float32) / 20
    wanted = batched_nms(
        torch.from_numpy(boxes).float(), torch.from_numpy(scores), torch.zeros(300), threshold
    )
    kept = nms(boxes, scores, threshold=threshold)
    assert 10 < len(kept) < 300
    assert kept.tolist() == wanted.tolist()


def test_no_boxes() -> None:
    assert nms(np.empty((0, 4), np.int64), np.empty(0, np.float32), threshold=0.7).tolist() == []


def test_the_threshold_itself_is_allowed() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]])
    scores = np.array([0.5, 0.9], np.float32)
    assert nms(boxes, scores, threshold=0.5).tolist() == [1, 0]
    assert nms(boxes, scores, threshold=0.49).tolist() == [1]
