"""Masks that have a cell of the loss grid, and those that are smaller than one.

A mask without a cell is an empty target: a model that is clicked on it learns that there is
nothing. Such masks are left out of training.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sam_train.masks import rle
from sam_train.masks.frame import InputFrame

_CELLS_AT_ONCE = 1 << 24
_ROUNDING = 1e-9
"""Far above the error of the products below, far below a photo pixel's share of a cell."""


def with_cell(
    runs: rle.Runs,
    masks: npt.NDArray[np.int64],
    frame: InputFrame,
    *,
    cells: int,
    area: bool,
) -> npt.NDArray[np.bool_]:
    """Tell which masks have at least one cell of the loss grid.

    Args:
        runs: the masks of the whole photo.
        masks: int64 [m] indices into them.
        frame: how the photo lies in the input.
        cells: R, cells along the input's side.
        area: whether a cell belongs to a mask that covers half of it, as
            `data.mask_sampling=area` says; otherwise to the mask at its centre.

    Returns:
        bool [m], exactly `rasterise(...).any()` or `rasterise_area(...).any()` of each mask.
    """
    if not area:
        rows, columns = frame.cell_rows(cells), frame.cell_columns(cells)
        return rle.sampled(runs, masks, rows=rows, columns=columns)
    found, open_ = _by_area(runs, masks, frame, cells=cells)
    down, across = frame.row_edges(cells), frame.column_edges(cells)
    # The grids of all masks of a large photo would take gigabytes.
    at_once = max(1, _CELLS_AT_ONCE // cells**2)
    for begin in range(0, len(open_), at_once):
        some = open_[begin : begin + at_once]
        grid = rle.rasterise_area(runs, masks[some], rows=down, columns=across, cells=cells)
        found[some] = grid.reshape(len(some), -1).max(axis=1, initial=0) > 0
    return found


def any_with_cell(
    runs: rle.Runs,
    masks: npt.NDArray[np.int64],
    frame: InputFrame,
    *,
    cells: int,
    area: bool,
) -> bool:
    """Tell whether one of the masks has a cell; arguments as of `with_cell`, in less time."""
    return any(
        with_cell(runs, masks[begin : begin + 16], frame, cells=cells, area=area).any()
        # In handfuls, since nearly always one of the first has a cell.
        for begin in range(0, len(masks), 16)
    )


def cell_side(frame: InputFrame, cells: int) -> float:
    """Return the side of a cell of the loss grid in pixels of the photo."""
    # The longest side becomes `scale` times the input's side, which R cells divide.
    return max(frame.original) / frame.scale / cells


def _by_area(
    runs: rle.Runs, masks: npt.NDArray[np.int64], frame: InputFrame, *, cells: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Decide by their areas alone whether masks cover half of a cell.

    Returns:
        bool [m] of the masks that surely do, and int64 [k] places of those that must be looked at.
    """
    (height, width), (rows, columns) = frame.original, frame.scaled
    # A mask's area in cells: of the whole photo, so that it is an upper bound in a window of it.
    per_pixel = (rows * cells / frame.side / height) * (columns * cells / frame.side / width)
    covered = runs.areas[masks] * per_pixel
    enough = covered >= 0.5 * (1 - _ROUNDING)
    # In a window a mask's area may lie outside it, so none is sure.
    if frame.size != frame.scaled or frame.offset != (0, 0):
        return np.zeros(len(masks), dtype=bool), np.flatnonzero(enough)
    left, top, right, bottom = runs.extents[masks].T
    across = frame.column_edges(cells).cell
    down = frame.row_edges(cells).cell
    # Spread over n cells, more than n / 2 of coverage leaves one of them at least half covered.
    touched = (across[right + 1] - across[left] + 1) * (down[bottom + 1] - down[top] + 1)
    sure = covered > 0.5 * (1 + _ROUNDING) * touched
    return sure, np.flatnonzero(enough & ~sure)
