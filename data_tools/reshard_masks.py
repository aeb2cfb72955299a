"""Masks of a photo at the size of a smaller one, from runs to runs.

Nearest: a pixel of the small photo takes the mask's value at its centre. No bitmap is made of the
large photo or of the small one, so a hundred masks take milliseconds.
"""
# ruff: noqa: PLR0917 - numba calls with positional arguments only

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from sam_train.masks.frame import InputFrame
from sam_train.masks.rle import Runs

_INT32 = numba.int32[::1]
_INT64 = numba.int64[::1]
_READ_ONLY = numba.types.Array(numba.int32, 1, "C", readonly=True)


def shrink(masks: Runs, frame: InputFrame) -> list[npt.NDArray[np.int64]]:
    """Shrink every mask to `frame.size`.

    Args:
        masks: of the photo, original frame.
        frame: of a side that does not enlarge the photo.

    Returns:
        For each mask its run lengths, column-major, background first; none for an invalid mask.
    """
    (height, width), (old_height, old_width) = frame.size, frame.original
    if height > old_height or width > old_width:
        raise ValueError(f"{frame.original} does not shrink to {frame.size}")
    n = len(masks.status)
    # A run makes one more for every border between two columns that it crosses.
    ends = np.empty(len(masks.ends) + n * (2 * old_width + 2), dtype=np.int32)
    stops = np.zeros(n + 1, dtype=np.int64)
    rows, columns = frame.cell_rows(frame.side), frame.cell_columns(frame.side)
    _shrink(masks.ends, masks.starts, masks.height, rows, columns, height, width, ends, stops)
    counts = []
    for k in range(n):
        own = ends[stops[k] : stops[k + 1]].astype(np.int64)
        if masks.status[k] == 0:
            own[1:] -= own[:-1].copy()
        counts.append(own if masks.status[k] == 0 else own[:0])
    return counts


@numba.njit(
    numba.void(
        _INT32,
        _INT64,
        numba.int64,
        _READ_ONLY,
        _READ_ONLY,
        numba.int64,
        numba.int64,
        _INT32,
        _INT64,
    ),
    nogil=True,
    cache=True,
)
def _shrink(  # type: ignore[no-untyped-def]
    ends, starts, height, rows, columns, new_height, new_width, out, stops
):
    """rows, columns: see `transforms.cell_starts`; mask k goes to out[stops[k]:stops[k + 1]]."""
    at = np.int64(0)
    for k in range(len(starts) - 1):
        first = at
        for i in range(starts[k] + 1, starts[k + 1], 2):
            begin, last = ends[i - 1], ends[i] - 1
            if last < begin:
                continue
            left, right = begin // height, last // height
            for x in range(left, right + 1):
                if columns[x] == columns[x + 1]:
                    continue
                top = rows[begin - left * height] if x == left else 0
                bottom = rows[last - right * height + 1] if x == right else new_height
                if top >= bottom:
                    continue
                position = columns[x] * new_height
                # Runs that touch now are one.
                if at > first and out[at - 1] == position + top:
                    at -= 1
                else:
                    out[at] = position + top
                    at += 1
                out[at] = position + bottom
                at += 1
        pixels = new_height * new_width
        if starts[k + 1] > starts[k] and (at == first or out[at - 1] < pixels):
            out[at] = pixels
            at += 1
        stops[k + 1] = at
