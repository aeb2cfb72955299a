"""COCO compressed run lengths, read without ever making a bitmap of the photo.

A mask of the original frame is a column-major list of runs that alternate between background
and foreground, background first. Everything here is O(runs), or O(runs + R^2) for the grid, and
releases the GIL. The string is untrusted: every character and every sum is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_train.masks import rle_kernels
from sam_train.masks.frame import CellEdges, Window

PROBLEMS = (
    "",
    "invalid character in the RLE",
    "RLE ends in the middle of a number",
    "RLE holds a number of more than 35 bits",
    "RLE holds a negative run",
    "RLE runs past the end of the image",
    "RLE covers less than the image",
    "RLE size disagrees with the image",
    "the annotation is no object",
    "it has no segmentation",
    "its segmentation is neither run lengths nor polygons",
    "RLE has no size [height, width]",
    "RLE counts are neither text nor whole numbers",
    "a polygon has fewer than three corners, an odd coordinate or something that is no number",
    "a polygon lies far outside the image",
    "a polygon's coordinates go from 0 to 1 and are no pixels",
    "polygons of a photo above 50 megapixels are not read",
)
"""Messages of the status codes of `Runs`."""
NEGATIVE, TOO_LONG, SIZE_DISAGREES = 4, 5, 7
NO_OBJECT, NO_SEGMENTATION, UNKNOWN_SEGMENTATION, NO_SIZE, NO_RUNS = range(8, 13)
BAD_POLYGON, FAR_POLYGON, RELATIVE_POLYGON, POLYGON_OF_LARGE_PHOTO = range(13, 17)


@dataclass(slots=True, kw_only=True)
class Runs:
    """The n masks of one photo as runs, original frame."""

    height: int
    """H; positions are column-major, so pixel p is (x, y) = (p // H, p % H)."""
    ends: npt.NDArray[np.int32]
    """Runs of all masks: the position after each run."""
    starts: npt.NDArray[np.int64]
    """[n + 1] mask k owns ends[starts[k]:starts[k + 1]]; none if it is invalid."""
    status: npt.NDArray[np.int8]
    """[n] 0 or the index of what is wrong in PROBLEMS."""
    areas: npt.NDArray[np.int64]
    """[n] foreground pixels."""
    extents: npt.NDArray[np.int32]
    """[n, 4] x0 y0 x1 y1: first and last foreground column and row (inclusive); zeros for an
    empty mask."""


def join(counts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Join n compressed strings to one array, and return [n + 1] where each begins."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum([len(c) for c in counts], out=offsets[1:])
    return np.frombuffer(b"".join(counts), dtype=np.uint8), offsets


def parse(counts: Sequence[bytes], *, height: int, width: int) -> Runs:
    """Parse n strings as `parse_joined` does."""
    return parse_joined(*join(counts), height=height, width=width)


def parse_joined(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], *, height: int, width: int
) -> Runs:
    """Parse n compressed masks of an image of height x width pixels into runs, areas and extents.

    Args:
        data: the strings as `join` gives them.
        offsets: [n + 1].

    An invalid mask does not raise: it has no runs, and its status says why. `height * width`
    must be below 2^31.
    """
    n = len(offsets) - 1
    # One character makes at most one run, so the input bounds the memory.
    ends = np.empty(len(data), dtype=np.int32)
    starts = np.zeros(n + 1, dtype=np.int64)
    status = np.zeros(n, dtype=np.int8)
    areas = np.zeros(n, dtype=np.int64)
    extents = np.zeros((n, 4), dtype=np.int32)
    rle_kernels.parse(data, offsets, height, height * width, ends, starts, status, areas, extents)
    return Runs(
        height=height,
        ends=ends[: starts[n]].copy(),
        starts=starts,
        status=status,
        areas=areas,
        extents=extents,
    )


def crop(runs: Runs, window: Window) -> Runs:
    """Crop the masks to a window of the photo, as if the photo were only that window.

    Returns:
        Runs in the window's frame, whose pixel (0, 0) is (window.left, window.top). Status is
        carried over.
    """
    height, width = window.shape
    n = len(runs.status)
    # A column of the window cuts a run at most once more.
    ends = np.empty(len(runs.ends) + n * (2 * width + 2), dtype=np.int32)
    starts = np.zeros(n + 1, dtype=np.int64)
    areas = np.zeros(n, dtype=np.int64)
    extents = np.zeros((n, 4), dtype=np.int32)
    corners = np.array([window.top, window.left, window.bottom, window.right], dtype=np.int64)
    rle_kernels.crop(runs.ends, runs.starts, runs.height, corners, ends, starts, areas, extents)
    return Runs(
        height=height,
        ends=ends[: starts[n]].copy(),
        starts=starts,
        status=runs.status,
        areas=areas,
        extents=extents,
    )


def pixels_at(
    runs: Runs, masks: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Find the ranks[k]-th foreground pixel (column-major, from 0) of mask masks[k].

    Returns:
        int64 [m, 2] (x, y), original frame. Each rank must be below the mask's area.
    """
    out = np.zeros((len(masks), 2), dtype=np.int64)
    rle_kernels.pixels_at(runs.ends, runs.starts, runs.height, masks, ranks, out)
    return out


def rasterise(
    runs: Runs,
    masks: npt.NDArray[np.int64],
    *,
    rows: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int32],
    cells: int,
) -> npt.NDArray[np.uint8]:
    """Sample the masks on a grid of `cells` x `cells`, nearest.

    Args:
        rows: int32 [H + 1]; the grid rows whose centres fall on photo row y are
            rows[y] .. rows[y + 1] - 1 (see `transforms.cell_starts`).
        columns: int32 [W + 1], the same for columns.

    Returns:
        uint8 [m, cells, cells] of {0, 1}, [row, column].
    """
    out = np.zeros((len(masks), cells, cells), dtype=np.uint8)
    rle_kernels.rasterise(runs.ends, runs.starts, runs.height, masks, rows, columns, out)
    return out


def sampled(
    runs: Runs,
    masks: npt.NDArray[np.int64],
    *,
    rows: npt.NDArray[np.int32],
    columns: npt.NDArray[np.int32],
) -> npt.NDArray[np.bool_]:
    """Tell which masks `rasterise` gives at least one cell, without making a grid.

    Args:
        rows: as `rasterise` takes them.
        columns: the same for columns.

    Returns:
        bool [m].
    """
    out = np.zeros(len(masks), dtype=np.uint8)
    rle_kernels.sampled(runs.ends, runs.starts, runs.height, masks, rows, columns, out)
    return out.view(np.bool_)


def rasterise_area(
    runs: Runs,
    masks: npt.NDArray[np.int64],
    *,
    rows: CellEdges,
    columns: CellEdges,
    cells: int,
) -> npt.NDArray[np.uint8]:
    """Mark the cells of a grid of `cells` x `cells` of which a mask covers at least half.

    Coverage is of the whole cell, padding included, in exact integers.

    Args:
        rows: see `transforms.cell_edges`.
        columns: the same for columns.

    Returns:
        uint8 [m, cells, cells] of {0, 1}, [row, column].
    """
    out = np.zeros((len(masks), cells, cells), dtype=np.uint8)
    rle_kernels.rasterise_area(
        runs.ends,
        runs.starts,
        runs.height,
        masks,
        rows.cell,
        rows.part,
        rows.whole,
        columns.cell,
        columns.part,
        columns.whole,
        runs.extents,
        out,
    )
    return out
