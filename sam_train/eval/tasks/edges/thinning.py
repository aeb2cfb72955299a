"""Thinning of binary maps to lines one pixel wide, as the BSDS benchmark does before it matches.

The official program calls MATLAB's `bwmorph(map, 'thin', inf)`: Guo and Hall's parallel thinning
(CACM 1989) in the form of Lam, Lee and Suen (PAMI 1992, page 879), two alternating passes.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

# Bit i of a neighbourhood is the i-th neighbour, from the east counter-clockwise: (row, column).
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def deletable() -> npt.NDArray[np.bool_]:
    """List the neighbourhoods whose centre may be deleted: bool [2 passes, 256].

    They meet G1 (the pixel joins nothing), G2 (it is no end of a line) and, by pass, G3 or G3'.
    """
    table = np.zeros((2, 256), dtype=np.bool_)
    for code in range(256):
        x = [bool(code >> i & 1) for i in range(8)]
        ring = [*x, x[0]]
        crossings = sum(not ring[i] and (ring[i + 1] or ring[i + 2]) for i in (0, 2, 4, 6))
        pairs = min(
            sum(ring[i] or ring[i + 1] for i in (0, 2, 4, 6)),
            sum(ring[i + 1] or ring[i + 2] for i in (0, 2, 4, 6)),
        )
        if crossings != 1 or not 2 <= pairs <= 3:
            continue
        table[0, code] = not ((x[1] or x[2] or not x[7]) and x[0])
        table[1, code] = not ((x[5] or x[6] or not x[3]) and x[4])
    return table


_DELETABLE = deletable()


def thin(mask: Mask) -> Mask:
    """Thin `mask` to lines one pixel wide of the same topology.

    Args:
        mask: bool [H, W]; beyond its border lies background.

    Returns:
        bool [H, W], a subset of `mask`; `mask` itself is left alone.
    """
    # In C order, or reshape would copy and the kernel thin the copy.
    padded = np.ascontiguousarray(np.pad(mask, 1), dtype=np.uint8)
    width = padded.shape[1]
    steps = np.array([row * width + column for row, column in _NEIGHBOURS], dtype=np.int64)
    _thin(padded.reshape(-1), np.flatnonzero(padded), steps, _DELETABLE)
    return padded[1:-1, 1:-1].astype(np.bool_)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc]
def _thin(
    pixels: npt.NDArray[np.uint8],
    candidates: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
    deletable: npt.NDArray[np.bool_],
) -> None:
    """Thin in place. A pixel is checked again only if a neighbour went since its last check."""
    seen = np.zeros(pixels.size, np.int32)
    latest = candidates  # pixels that this pass checks
    older = np.empty(0, np.int64)  # deleted by the pass before
    passes = 0
    while True:
        gone = np.empty(latest.size, np.int64)
        count = 0
        for pixel in latest:
            code = 0
            for i in range(8):
                code |= int(pixels[pixel + steps[i]]) << i
            if deletable[passes & 1, code]:
                gone[count] = pixel
                count += 1
        gone = gone[:count]
        # Only after the pass, because all its pixels must see the same map.
        for pixel in gone:
            pixels[pixel] = 0
        passes += 1
        if passes == 1:  # the other kind of pass has not checked anything yet
            latest = candidates[pixels[candidates] != 0]
            older = gone
            continue
        if count == 0 and older.size == 0:
            return
        # The next pass is of the kind before this one, to which both lots of deletions are new.
        latest = np.empty(8 * (count + older.size), np.int64)
        size = 0
        for part in (older, gone):
            for pixel in part:
                for step in steps:
                    near = pixel + step
                    if pixels[near] and seen[near] != passes:
                        seen[near] = passes
                        latest[size] = near
                        size += 1
        latest = latest[:size]
        older = gone
