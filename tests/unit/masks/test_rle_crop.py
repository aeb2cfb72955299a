"""Runs cut to a window against the bitmap cut by numpy, run for run."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sam_train.masks import rle
from sam_train.masks.frame import Window


def ends_of(mask: npt.NDArray[np.uint8]) -> list[int]:
    """The position behind each run, column by column, background first; none for nothing."""
    lengths = [(value, len(list(same))) for value, same in groupby(mask.T.ravel().tolist())]
    first = [] if lengths[0][0] == 0 else [0]
    return np.cumsum([*first, *(length for _, length in lengths)]).tolist()


def check_crop(masks: list[npt.NDArray[np.uint8]], window: Window) -> None:
    counts = [coco.encode(np.asfortranarray(m))["counts"] for m in masks]
    runs = rle.parse(counts, height=masks[0].shape[0], width=masks[0].shape[1])
    found = rle.crop(runs, window)
    assert found.height == window.bottom - window.top
    for k, mask in enumerate(masks):
        part = mask[window.top : window.bottom, window.left : window.right]
        assert found.ends[found.starts[k] : found.starts[k + 1]].tolist() == ends_of(part)
        assert found.areas[k] == part.sum()
        rows, columns = np.nonzero(part)
        box = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0] * 4
        assert found.extents[k].tolist() == box


@st.composite
def masks_and_window(draw: st.DrawFn) -> tuple[list[npt.NDArray[np.uint8]], Window]:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shares = draw(st.lists(st.sampled_from([0, 0.1, 0.5, 0.9, 1]), min_size=1, max_size=3))
    masks = [(rng.random((height, width)) < share).astype(np.uint8) for share in shares]
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    return masks, Window(top=top, left=left, bottom=bottom, right=right)


@given(masks_and_window())
@settings(max_examples=60, deadline=None)
def test_a_crop_is_the_bitmaps_crop(case: tuple[list[npt.NDArray[np.uint8]], Window]) -> None:
    check_crop(*case)


@pytest.mark.parametrize(
    ("top", "bottom", "left", "right"),
    [
        (0, 5, 0, 7),  # all of it
        (0, 5, 2, 4),  # whole columns, where a run goes on from one into the next
        (1, 4, 0, 7),
        (0, 1, 0, 7),
        (4, 5, 0, 7),
        (2, 3, 3, 4),
        (0, 5, 6, 7),
        (0, 5, 0, 1),
    ],
)
def test_windows_at_the_edges(top: int, bottom: int, left: int, right: int) -> None:
    """Of a full mask, one with a hole, a column, a row, and the corners."""
    masks = np.zeros((6, 5, 7), np.uint8)
    masks[0] = 1
    masks[1] = 1
    masks[1, 2, 3] = 0
    masks[2, :, 3] = 1
    masks[3, 2, :] = 1
    masks[4, [0, 0, -1, -1], [0, -1, 0, -1]] = 1
    check_crop(list(masks), Window(top=top, left=left, bottom=bottom, right=right))


def test_a_run_of_no_pixels_ends_nothing() -> None:
    """Other writers leave runs of length 0; what follows them is still there."""
    uncompressed = {"size": [3, 4], "counts": [2, 0, 1, 2, 0, 0, 1, 3, 3]}
    encoded = coco.frPyObjects(uncompressed, 3, 4)
    mask = coco.decode(encoded)
    runs = rle.parse([encoded["counts"]], height=3, width=4)
    assert runs.status.tolist() == [0]
    window = Window(top=0, left=1, bottom=3, right=4)
    found = rle.crop(runs, window)
    assert found.ends.tolist() == ends_of(mask[:, 1:])
    assert found.areas.tolist() == [mask[:, 1:].sum()]


def test_an_invalid_mask_stays_one() -> None:
    good = coco.encode(np.asfortranarray(np.ones((3, 4), dtype=np.uint8)))["counts"]
    runs = rle.parse([b"4", good], height=3, width=4)
    found = rle.crop(runs, Window(top=1, left=1, bottom=3, right=3))
    assert found.status.tolist() == runs.status.tolist() != [0, 0]
    assert found.starts.tolist() == [0, 0, 2]
    assert found.areas.tolist() == [0, 4]
