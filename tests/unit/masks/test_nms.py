"""Suppression of boxes against a plain loop in the words of torchvision's documentation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from segment_anything_reference import batched_nms

from sam_train.masks.nms import nms


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


def pixels(box: list[int]) -> set[tuple[int, int]]:
    x0, y0, x1, y1 = box
    return {(x, y) for x in range(x0, x1 + 1) for y in range(y0, y1 + 1)}


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.95])
def test_lines_are_compared_by_their_pixels(threshold: float) -> None:
    rng = np.random.default_rng(4)
    boxes = np.zeros((200, 4), np.int64)
    for number, box in enumerate(boxes):
        # A column, a row, a pixel, and a box with an area; ends are first and last pixels.
        x, y, length = rng.integers(0, 4), rng.integers(0, 4), rng.integers(1, 20)
        wide, high = [(0, length), (length, 0), (0, 0), (length, 1 + length // 2)][number % 4]
        box[:] = x, y, x + wide, y + high
    scores = rng.permutation(200).astype(np.float32)
    kept: list[int] = []
    for k in np.argsort(-scores).tolist():
        own, line = pixels(boxes[k].tolist()), is_line(boxes[k])
        rivals = [pixels(boxes[j].tolist()) for j in kept if line and is_line(boxes[j])]
        if all(len(own & other) / len(own | other) <= threshold for other in rivals):
            kept.append(k)
    solid = [k for k in kept if not is_line(boxes[k])]
    left = nms(boxes[solid], scores[solid], threshold=threshold)
    wanted = {k for k in kept if is_line(boxes[k])} | {solid[k] for k in left}
    found = nms(boxes, scores, threshold=threshold, lines=True).tolist()
    assert found == sorted(wanted, key=lambda k: -scores[k])
    assert len(found) < 170
    # Without it each copy of a line stays, as in torchvision.
    assert sum(is_line(boxes[k]) for k in nms(boxes, scores, threshold=threshold)) == 150


def is_line(box: npt.NDArray[np.int64]) -> bool:
    return bool(box[0] == box[2] or box[1] == box[3])
