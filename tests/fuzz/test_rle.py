"""Strings that say they are masks: refused, or exactly what pycocotools reads.

`test_bounds.py` runs this file again with kernels that check every index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from fuzzing import damaged, edits, fuzz, within
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sam_train.masks import rle
from sam_train.masks.frame import InputFrame, Window

pytestmark = pytest.mark.fuzz

_EDITS = edits(most=2, payload=st.integers(40, 120).map(lambda c: bytes([c])))
_ABSURD = [-1, -5, 1 << 15, 1 << 30, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 34) - 1, 1 << 40]


def compressed(runs: Sequence[int]) -> bytes:
    """COCO's string of any numbers at all, also of those that no mask has."""
    out = bytearray()
    for k, run in enumerate(runs):
        left = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            digit, left = left & 31, left >> 5
            more = left != (-1 if digit & 16 else 0)
            out.append(48 + (digit | 32 if more else digit))
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Strings:
    """Some masks of one photo."""

    height: int
    width: int
    counts: list[bytes]


@st.composite
def true_masks(draw: st.DrawFn, height: int, width: int) -> bytes:
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0, 0.03, 0.5, 0.97, 1]))
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def _sums_up(parts: list[int], pixels: int) -> list[int]:
    """Runs of a photo of that many pixels, in these proportions."""
    total = max(sum(parts), 1)
    runs = [pixels * part // total for part in parts]
    return [*runs, pixels - sum(runs)]


@st.composite
def strings(draw: st.DrawFn, *, longest: int) -> Strings:
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    pixels = height * width
    numbers = st.integers(0, pixels) | st.sampled_from([0, pixels, pixels + 1, *_ABSURD])
    kinds = [
        st.lists(st.integers(0, 1000), max_size=20).map(
            lambda parts: compressed(_sums_up(parts, pixels))
        ),
        st.lists(numbers, max_size=8).map(compressed),
        st.binary(max_size=40),
    ]
    if longest <= 64:
        kinds.append(true_masks(height, width))
    one = st.tuples(st.one_of(kinds), st.just([]) | _EDITS)
    counts = draw(st.lists(one.map(lambda both: damaged(*both)), min_size=3, max_size=5))
    return Strings(height, width, counts)


def parsed(given_: Strings) -> rle.Runs:
    characters = sum(map(len, given_.counts))
    runs = within(
        20_000 + 64 * characters,
        rle.parse,
        given_.counts,
        height=given_.height,
        width=given_.width,
    )
    assert len(runs.ends) <= characters
    assert np.all((runs.ends >= 0) & (runs.ends <= given_.height * given_.width))
    assert np.all((runs.status >= 0) & (runs.status < len(rle.PROBLEMS)))
    invalid = runs.status != 0
    assert not runs.areas[invalid].any()
    assert not np.diff(runs.starts)[invalid].any()
    return runs


def grids(runs: rle.Runs, frame: InputFrame, cells: int) -> npt.NDArray[np.uint8]:
    return rle.rasterise(
        runs,
        np.arange(len(runs.status)),
        rows=frame.cell_rows(cells),
        columns=frame.cell_columns(cells),
        cells=cells,
    )


def areas(runs: rle.Runs, frame: InputFrame, cells: int) -> npt.NDArray[np.uint8]:
    return rle.rasterise_area(
        runs,
        np.arange(len(runs.status)),
        rows=frame.row_edges(cells),
        columns=frame.column_edges(cells),
        cells=cells,
    )


def check_measures(runs: rle.Runs, k: int, mask: npt.NDArray[np.uint8]) -> None:
    """Area, extent, first and last pixel of mask k against its bitmap."""
    assert runs.areas[k] == mask.sum()
    if not mask.any():
        return
    columns, rows = np.nonzero(mask.T)
    assert runs.extents[k].tolist() == [columns[0], rows.min(), columns[-1], rows.max()]
    ranks = np.array([0, len(rows) // 2, len(rows) - 1])
    points = rle.pixels_at(runs, np.full(3, k), ranks)
    assert points.tolist() == [[columns[r], rows[r]] for r in ranks]


@given(strings(longest=24), st.data())
@fuzz(short=200, each=4)
def test_strings_of_small_photos_are_refused_or_pycocotools_masks(
    given_: Strings, data: st.DataObject
) -> None:
    runs = parsed(given_)
    height, width, side = given_.height, given_.width, max(given_.height, given_.width)
    rows = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    columns = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    window = Window(top=rows[0], bottom=rows[1], left=columns[0], right=columns[1])
    inside = rle.crop(runs, window) if 0 not in window.shape else None
    whole = grids(runs, InputFrame(original=(height, width), side=side), side)
    covered = areas(runs, InputFrame(original=(height, width), side=side), side)
    other = InputFrame(original=(height, width), side=data.draw(st.integers(1, 40)))
    assert not (grids(runs, other, 16) | areas(runs, other, 16))[runs.status != 0].any()
    for k in range(len(given_.counts)):
        if runs.status[k]:
            assert not (whole[k] | covered[k]).any()
            continue
        mask = coco.decode({"size": [height, width], "counts": given_.counts[k]})
        # A cell is a pixel here.
        assert np.array_equal(whole[k, :height, :width], mask)
        assert np.array_equal(covered, whole)
        check_measures(runs, k, mask)
        if inside is not None:
            check_measures(inside, k, mask[slice(*rows), slice(*columns)])


@given(strings(longest=9000))
@fuzz(short=100, each=4)
def test_strings_of_large_photos_are_refused_or_have_pycocotools_area(given_: Strings) -> None:
    runs = parsed(given_)
    size = [given_.height, given_.width]
    frame = InputFrame(original=(size[0], size[1]), side=64)
    out, covered = grids(runs, frame, 16), areas(runs, frame, 16)
    assert not (out | covered)[runs.status != 0].any()
    for k in np.flatnonzero(runs.status == 0):
        assert runs.areas[k] == coco.area({"size": size, "counts": given_.counts[k]})
        if runs.areas[k] == size[0] * size[1]:
            centres = (2 * np.arange(16) + 1) * 2
            inside = [np.sum(centres < length) for length in frame.size]
            assert out[k].sum() == inside[0] * inside[1]


def test_true_masks_and_every_kind_of_refusal_are_among_what_is_drawn() -> None:
    seen: set[int] = set()

    @given(strings(longest=24))
    @settings(max_examples=150, derandomize=True, database=None, deadline=None)
    def collect(given_: Strings) -> None:
        seen.update(parsed(given_).status.tolist())

    collect()
    assert seen >= set(range(rle.SIZE_DISAGREES))
