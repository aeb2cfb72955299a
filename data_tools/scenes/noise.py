"""Seamless noise tiles from which every texture is looked up."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

TILE = 256
"""Side of a tile; a power of two, because lookups wrap with a bit mask."""

SMOOTH, FINE, GRAIN = 0, 1, 2
"""Tiles: clouds (steep spectrum), rough matter (flatter), and white grain."""


@cache
def noise_tiles() -> npt.NDArray[np.float32]:
    """Make float32 [3, TILE, TILE], zero mean, about unit deviation, periodic in both axes.

    Always the same tiles: a scene's own seed only decides where they are sampled.
    """
    rng = np.random.default_rng(20230405)
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.fftfreq(TILE)[None])
    frequency[0, 0] = 1.0
    tiles = []
    for power in (1.9, 1.15, 0.25):
        spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE))) / frequency**power
        spectrum[0, 0] = 0.0
        field = np.fft.ifft2(spectrum).real
        tiles.append(np.clip(field / field.std(), -2.5, 2.5))
    return np.stack(tiles).astype(np.float32)
