"""The input frame against segment-anything's rule and against Pillow's own sampling."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam_train.masks.frame import InputFrame, cell_starts


@pytest.mark.parametrize("side", [128, 1024])
@pytest.mark.parametrize("original", [(1500, 2250), (2250, 1500), (7, 7), (333, 500), (1, 900)])
def test_size_follows_resize_longest_side(original: tuple[int, int], side: int) -> None:
    # segment-anything's get_preprocess_shape, as a formula; never below one pixel.
    scale = side * 1.0 / max(original)
    expected = tuple(max(1, int(length * scale + 0.5)) for length in original)
    assert InputFrame(original=original, side=side).size == expected
    assert max(expected) == side


def test_points_follow_a_blob_through_the_resize() -> None:
    """A bright pixel's centre of mass after Pillow's resize is where `map_points` says."""
    for shape, side in [((60, 90), 30), ((40, 30), 120)]:
        frame = InputFrame(original=shape, side=side)
        photo = np.zeros((*shape, 3), dtype=np.uint8)
        photo[21, 13] = 255
        image = frame.resize(Image.fromarray(photo)).astype(float)[..., 0]
        y, x = np.indices(image.shape)
        centre = [(image * x).sum() / image.sum(), (image * y).sum() / image.sum()]
        assert np.allclose(frame.map_points(np.array([13, 21])), centre, atol=0.05)


def test_the_original_size_is_left_as_it_is() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8)
    frame = InputFrame(original=(20, 32), side=32)
    assert np.array_equal(frame.resize(Image.fromarray(photo)), photo)
    points = np.array([[0, 0], [31, 19]])
    assert np.array_equal(frame.map_points(points), points)


def test_cells_are_complete_and_leave_the_padding_out() -> None:
    # 60 of 100 input pixels are photo: of 10 cells of 10 pixels, 6.
    starts = cell_starts(120, 60, side=100, cells=10)
    assert starts[0] == 0
    assert starts[-1] == 6
    owners = np.repeat(np.arange(120), np.diff(starts))
    # Cell centres at 5, 15 ... of the input are 10, 30 ... of the photo.
    assert owners.tolist() == [10, 30, 50, 70, 90, 110]
