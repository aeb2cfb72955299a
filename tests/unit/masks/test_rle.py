"""Runs against pycocotools: the same masks, the same samples, and nothing believed unchecked."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import REAL_DATA
from pycocotools import mask as coco
from scipy.sparse import csr_array

from sam_train.masks import rle, rle_kernels
from sam_train.masks.frame import InputFrame

REAL = REAL_DATA / "sa1b/sa_226381.partial.json"


@st.composite
def masks(draw: st.DrawFn) -> npt.NDArray[np.uint8]:
    """Anything from empty over single pixels and noise to full, of any aspect."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = (rng.random((height, width)) < draw(st.sampled_from([0, 0.02, 0.5, 0.95, 1]))) * 1
    if draw(st.booleans()):
        y, x = rng.integers(height), rng.integers(width)
        mask[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = 1
    return mask.astype(np.uint8)


def runs_of(mask: npt.NDArray[np.uint8], *others: npt.NDArray[np.uint8]) -> rle.Runs:
    counts = [coco.encode(np.asfortranarray(m))["counts"] for m in (mask, *others)]
    return rle.parse(counts, height=mask.shape[0], width=mask.shape[1])


def sampled(mask: npt.NDArray[Any], frame: InputFrame, cells: int) -> npt.NDArray[Any]:
    """The mask at the cells' centres, in exact fractions, one cell at a time."""
    out = np.zeros((cells, cells), dtype=mask.dtype)
    for i in range(cells):
        for j in range(cells):
            y, x = (Fraction(2 * k + 1, 2) * frame.side / cells for k in (i, j))
            if y < frame.size[0] and x < frame.size[1]:
                row = int(y * mask.shape[0] / frame.size[0])
                column = int(x * mask.shape[1] / frame.size[1])
                out[i, j] = mask[row, column]
    return out


@given(masks())
@settings(max_examples=200, deadline=None)
def test_area_extent_and_every_foreground_pixel_are_pycocotools(
    mask: npt.NDArray[np.uint8],
) -> None:
    # The mask in question comes second, so that offsets between masks are in play.
    runs = runs_of(1 - mask, mask)
    assert runs.status.tolist() == [0, 0]
    assert runs.areas[1] == mask.sum()
    columns, rows = np.nonzero(mask.T)
    if not mask.any():
        return
    extent = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert runs.extents[1].tolist() == extent
    ranks = np.arange(mask.sum(), dtype=np.int64)
    found = rle.pixels_at(runs, np.ones_like(ranks), ranks)
    assert np.array_equal(found, np.stack([columns, rows], axis=1))


@given(masks(), st.sampled_from([4, 7, 16]), st.sampled_from([16, 33]))
@settings(max_examples=100, deadline=None)
def test_grid_is_decode_followed_by_the_same_sampling(
    mask: npt.NDArray[np.uint8], cells: int, side: int
) -> None:
    runs = runs_of(1 - mask, mask)
    decoded = coco.decode(coco.encode(np.asfortranarray(mask)))
    frame = InputFrame(original=(mask.shape[0], mask.shape[1]), side=side)
    grid = rle.rasterise(
        runs,
        np.array([1, 0, 1]),
        rows=frame.cell_rows(cells),
        columns=frame.cell_columns(cells),
        cells=cells,
    )
    expected = [sampled(one, frame, cells) for one in (decoded, 1 - decoded)]
    assert np.array_equal(grid, [expected[0], expected[1], expected[0]])
    seen = rle.sampled(
        runs,
        np.array([1, 0, 1]),
        rows=frame.cell_rows(cells),
        columns=frame.cell_columns(cells),
    )
    assert seen.tolist() == [bool(expected[k].any()) for k in (0, 1, 0)]


@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (13, 7)])
def test_a_mask_is_seen_where_one_of_its_pixels_holds_a_centre(shape: tuple[int, int]) -> None:
    """Single pixels, and runs that cross from one column into the next, on a coarse grid."""
    cells, frame = 4, InputFrame(original=shape, side=16)
    pixels = shape[0] * shape[1]
    spans = [(p, p + length) for length in (1, 2, shape[0] + 1) for p in range(pixels - length + 1)]
    masks = []
    for begin, stop in spans:
        mask = np.zeros(pixels, np.uint8)
        mask[begin:stop] = 1
        masks.append(mask.reshape(shape, order="F"))
    runs = runs_of(masks[0], *masks[1:])
    places = {"rows": frame.cell_rows(cells), "columns": frame.cell_columns(cells)}
    centres = sampled(np.arange(1, pixels + 1).reshape(shape, order="F"), frame, cells)
    held = set(centres[centres > 0].tolist())
    expected = [any(p + 1 in held for p in range(*span)) for span in spans]
    assert rle.sampled(runs, np.arange(len(masks)), **places).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def shares(frame: InputFrame, axis: int, cells: int) -> npt.NDArray[np.int64]:
    """[cells, pixels] how much of each photo pixel lies in each cell, along one axis; in units of
    1 / (cells * pixels) of an input pixel, where all edges are whole numbers."""
    pixels, step = frame.original[axis], frame.scaled[axis] * cells
    low = np.arange(pixels) * step - frame.offset[axis] * pixels * cells
    first = np.arange(cells)[:, None] * frame.side * pixels
    common = np.minimum(low + step, first + frame.side * pixels) - np.maximum(low, first)
    return common.clip(0)


def covered(mask: npt.NDArray[np.uint8], frame: InputFrame, cells: int) -> npt.NDArray[np.bool_]:
    """Cells of which at least half is mask."""
    rows, columns = (csr_array(shares(frame, axis, cells)) for axis in (0, 1))
    whole = frame.side**2 * mask.size
    area: npt.NDArray[np.int64] = rows @ mask.astype(np.int64) @ columns.T
    return 2 * area >= whole


@given(masks(), st.sampled_from([4, 7, 16]), st.sampled_from([16, 33]), st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_area_grid_is_decode_followed_by_exact_coverage(
    mask: npt.NDArray[np.uint8], cells: int, side: int, jitter: int
) -> None:
    runs = runs_of(1 - mask, mask)
    decoded = coco.decode(coco.encode(np.asfortranarray(mask)))
    frame = InputFrame(original=(mask.shape[0], mask.shape[1]), side=side)
    if jitter:  # larger than the input, and with a part cut off
        frame = replace(frame, scale=1 + jitter / 3)
        cut = tuple(a - b for a, b in zip(frame.scaled, frame.size, strict=True))
        frame = replace(frame, offset=(cut[0], cut[1] // 2))
    rows, columns = frame.row_edges(cells), frame.column_edges(cells)
    chosen = np.array([1, 0, 1])
    grid = rle.rasterise_area(runs, chosen, rows=rows, columns=columns, cells=cells)
    assert np.array_equal(grid[0], covered(decoded, frame, cells))
    assert np.array_equal(grid[1], covered(1 - decoded, frame, cells))
    assert np.array_equal(grid[2], grid[0])


@pytest.mark.parametrize("area", [True, False])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (8, 8), (1, 8), (8, 1)])
def test_nothing_is_written_beside_the_grids(area: bool, shape: tuple[int, int]) -> None:
    """The kernels get part of an array; full masks reach the last row and column of each grid."""
    cells = 4
    masks = [np.ones(shape, np.uint8), np.zeros(shape, np.uint8), np.ones(shape, np.uint8)]
    runs = runs_of(*masks)
    frame = InputFrame(original=shape, side=16)
    around = np.full((5, cells, cells), 7, np.uint8)
    around[1:4] = 0
    given = (runs.ends, runs.starts, runs.height, np.arange(3))
    if area:
        rows, columns = frame.row_edges(cells), frame.column_edges(cells)
        edges = (rows.cell, rows.part, rows.whole, columns.cell, columns.part, columns.whole)
        rle_kernels.rasterise_area(*given, *edges, runs.extents, around[1:4])
        expected = [covered(mask, frame, cells) for mask in masks]
    else:
        places = (frame.cell_rows(cells), frame.cell_columns(cells))
        rle_kernels.rasterise(*given, *places, around[1:4])
        expected = [sampled(mask, frame, cells) for mask in masks]
    assert np.array_equal(around[1:4], expected)
    assert (around[[0, 4]] == 7).all()


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        (b"", "covers less"),
        (b"43", "covers less"),
        (b"4>", "past the end"),
        (b"4 3", "invalid character"),
        (b"4\xff", "invalid character"),
        (b"4T", "in the middle"),
        (b"O", "negative"),
        (b"oooooooo0", "more than 35 bits"),
        (b"oooooo?", "past the end"),
    ],
)
def test_invalid_strings_say_what_is_wrong_and_spare_their_neighbours(
    counts: bytes, problem: str
) -> None:
    good = coco.encode(np.asfortranarray(np.ones((3, 4), dtype=np.uint8)))["counts"]
    runs = rle.parse([good, counts, good], height=3, width=4)
    assert problem in rle.PROBLEMS[runs.status[1]]
    assert runs.areas.tolist() == [12, 0, 12]
    assert runs.status[[0, 2]].tolist() == [0, 0]


strings_like_counts = st.lists(st.integers(48, 111), max_size=12).map(bytes)


@given(
    st.lists(st.one_of(st.binary(max_size=30), strings_like_counts), max_size=5),
    st.integers(1, 5),
    st.integers(1, 5),
)
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_leave_the_image(strings: list[bytes], height: int, width: int) -> None:
    runs = rle.parse(strings, height=height, width=width)
    valid = runs.status == 0
    assert np.all(runs.areas[~valid] == 0)
    assert np.all((runs.ends >= 0) & (runs.ends <= height * width))
    assert np.all(runs.extents >= 0)
    assert np.all(runs.extents < [width, height, width, height])
    for k in np.flatnonzero(valid):
        segmentation = {"size": [height, width], "counts": strings[k]}
        assert runs.areas[k] == coco.decode(segmentation).sum()


@pytest.mark.skipif(not REAL.exists(), reason="no real SA-1B annotations beside the checkout")
def test_real_annotations_have_the_area_and_box_they_state() -> None:
    annotations = json.loads(REAL.read_text())["annotations"]
    counts = [a["segmentation"]["counts"].encode() for a in annotations]
    runs = rle.parse(counts, height=1500, width=2000)
    assert runs.areas.tolist() == [a["area"] for a in annotations]
    # SA-1B's width and height are one less than the extent: last minus first pixel.
    boxes = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in annotations)]
    assert runs.extents.tolist() == boxes


@pytest.mark.skipif(not REAL.exists(), reason="no real SA-1B annotations beside the checkout")
def test_real_annotations_give_the_grids_of_their_bitmaps() -> None:
    segmentations = [a["segmentation"] for a in json.loads(REAL.read_text())["annotations"]]
    runs = rle.parse([s["counts"].encode() for s in segmentations], height=1500, width=2000)
    bitmaps = np.stack([coco.decode(s) for s in segmentations])
    frame, cells = InputFrame(original=(1500, 2000), side=1024), 256
    chosen = np.arange(len(bitmaps))
    rows, columns = frame.row_edges(cells), frame.column_edges(cells)
    grid = rle.rasterise_area(runs, chosen, rows=rows, columns=columns, cells=cells)
    assert np.array_equal(grid, [covered(bitmap, frame, cells) for bitmap in bitmaps])
    nearest = rle.rasterise(
        runs,
        chosen,
        rows=frame.cell_rows(cells),
        columns=frame.cell_columns(cells),
        cells=cells,
    )
    centres = (2 * np.arange(cells) + 1) * 2000 // (2 * cells)
    inside = centres[centres < 1500]
    assert np.array_equal(nearest[:, : len(inside)], bitmaps[:, inside][:, :, centres])
    assert not nearest[:, len(inside) :].any()
