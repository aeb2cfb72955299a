"""Close-ups: photos cut from a larger drawing, where a camera would be pointed."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from data_tools.scenes.scene import Scene, render_scene

TRIES = 8
"""Windows that are compared; the one that shows most things whole is kept."""

ATTEMPTS = 20
"""Number of other windows that are tried where all show nothing but a wall or the sea."""

SMALLEST_PIECE = 64
"""Pixels, in a photo of 256 pixels a side, that a mask cut by the frame must still show."""

SMALLEST_SHARE = 0.2
"""Share of its pixels that a mask cut by the frame must still show."""


def photos_of_a_scene(zoom: float) -> int:
    """Return how many photos one scene gives, floor(zoom^2): little of it is left unused."""
    return max(1, math.floor(zoom * zoom))


def close_up(seed: int, index: int, *, height: int, width: int, zoom: float) -> Scene:
    """Draw photo `index` of the endless collection `seed`, taken `zoom` times as close.

    The `photos_of_a_scene` of one drawing follow each other and can overlap.

    Args:
        seed: of the collection.
        index: of the photo.
        height, width: of the photo in pixels.
        zoom: 1 is the whole scene.

    Returns:
        The photo; `parents` counts within the masks it kept.
    """
    if zoom == 1:
        return render_scene(seed, index, height=height, width=width)
    shots = photos_of_a_scene(zoom)
    whole = _drawing(seed, index // shots, round(height * zoom), round(width * zoom))
    rng = np.random.default_rng([seed, index])
    areas = whole.masks.sum((1, 2))
    smallest = SMALLEST_PIECE * height * width / 256**2
    for _ in range(ATTEMPTS):
        tries = [_window(whole.masks, rng, height, width) for _ in range(TRIES)]
        shown = [whole.masks[:, rows, columns].sum((1, 2)) for rows, columns in tries]
        best = int(np.argmax([np.sum(s > 0.9 * areas) for s in shown]))
        uncut = shown[best] == areas
        piece = (shown[best] >= smallest) & (shown[best] >= SMALLEST_SHARE * areas)
        kept = np.flatnonzero((uncut | piece) & (shown[best] < 0.9 * height * width))
        if kept.size:
            break
    place = {int(old): new for new, old in enumerate(kept)}
    rows, columns = tries[best]
    return Scene(
        whole.image[rows, columns],
        whole.masks[kept][:, rows, columns],
        [place.get(whole.parents[old], -1) for old in kept],
        whole.jpeg_quality,
    )


@lru_cache(maxsize=1)
def _drawing(seed: int, index: int, height: int, width: int) -> Scene:
    return render_scene(seed, index, height=height, width=width)


def _window(
    masks: npt.NDArray[np.bool_], rng: np.random.Generator, height: int, width: int
) -> tuple[slice, slice]:
    top = int(rng.integers(masks.shape[1] - height + 1))
    left = int(rng.integers(masks.shape[2] - width + 1))
    return slice(top, top + height), slice(left, left + width)
