from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco_mask

from sam_train.masks import rle
from sam_train.masks.flip import flip

FLIPS = [(True, False), (False, True), (True, True), (False, False)]


def encoded(bitmaps: npt.NDArray[np.uint8]) -> rle.Runs:
    """Parse what pycocotools makes of [n, H, W]."""
    _, height, width = bitmaps.shape
    found = coco_mask.encode(np.asfortranarray(bitmaps.transpose(1, 2, 0)))
    return rle.parse([one["counts"] for one in found], height=height, width=width)


def drawn(n: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw noise, smooth and rough, and the masks that are special: empty, full, bars."""
    random = np.random.default_rng(height * 1000 + width)
    bitmaps = (random.random((n, height, width)) < random.random((n, 1, 1))).astype(np.uint8)
    bars = np.zeros((4, height, width), dtype=np.uint8)
    bars[1], bars[2, :, width // 2 :], bars[3, height // 2 :] = 1, 1, 1
    return np.concatenate([bitmaps, bars])


@pytest.mark.parametrize(("across", "down"), FLIPS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (8, 1), (5, 4), (13, 31), (64, 48)])
def test_flipped_runs_are_those_of_the_flipped_bitmap(
    height: int, width: int, across: bool, down: bool
) -> None:
    bitmaps = drawn(20, height, width)
    expected = bitmaps[:, :: -1 if down else 1, :: -1 if across else 1]
    ours, theirs = flip(encoded(bitmaps), width=width, across=across, down=down), encoded(expected)
    for name in ("ends", "starts", "status", "areas", "extents"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


@pytest.mark.parametrize(("across", "down"), FLIPS)
def test_invalid_masks_and_empty_runs_pass(across: bool, down: bool) -> None:
    # 0, 3 | 0, 2 : two foreground runs with an empty background run between them.
    good, bad = coco_mask.frPyObjects({"size": [4, 2], "counts": [0, 3, 0, 2, 3]}, 4, 2), b"\xff"
    runs = rle.parse([bad, good["counts"]], height=4, width=2)
    flipped = flip(runs, width=2, across=across, down=down)
    assert flipped.status.tolist() == runs.status.tolist()
    assert flipped.starts[1] == 0
    bitmap = coco_mask.decode(good)[:: -1 if down else 1, :: -1 if across else 1]
    order = np.arange(5)
    pixels = rle.pixels_at(flipped, np.ones(5, dtype=np.int64), order)
    found = np.zeros((4, 2), dtype=np.uint8)
    found[pixels[:, 1], pixels[:, 0]] = 1
    assert np.array_equal(found, bitmap)
