"""Windows and points of the generator: overlapping crops of the photo, a grid of points on each
(paper B).

Everything is computed with the arithmetic of segment-anything 1.0's `amg.py`, so that crops and
points are the same numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """A window of the photo, original frame; column `x1` and row `y1` are outside."""

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int
    """0: the whole photo; layer n has 4^n crops."""

    @property
    def height(self) -> int:
        """Rows."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Columns."""
        return self.x1 - self.x0

    @property
    def xywh(self) -> list[int]:
        """The window in the form that SA-1B stores."""
        return [self.x0, self.y0, self.width, self.height]


def crop_pyramid(height: int, width: int, *, layers: int, overlap_ratio: float) -> list[Crop]:
    """Cut the photo into itself and `layers` layers of crops, each column by column.

    Args:
        height: of the photo in pixels.
        width: of the photo in pixels.
        layers: below the whole photo; 2 give the 1 + 4 + 16 crops of SA-1B.
        overlap_ratio: how far the crops of layer 1 overlap, in shorter sides of the photo; half
            as far in each next layer.
    """
    crops = [Crop(x0=0, y0=0, x1=width, y1=height, layer=0)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        # The shorter side decides for both axes, as in segment-anything.
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        w, h = (
            math.ceil((overlap * (per_side - 1) + length) / per_side) for length in (width, height)
        )
        for i, j in product(range(per_side), repeat=2):
            x0, y0 = (w - overlap) * i, (h - overlap) * j
            # Sizes were rounded up, so the last crop may be a pixel narrower.
            x1, y1 = min(x0 + w, width), min(y0 + h, height)
            crops.append(Crop(x0=x0, y0=y0, x1=x1, y1=y1, layer=layer))
    return crops


def point_grid(per_side: int) -> Points:
    """Return float64 [per_side ** 2, 2] (x, y) in (0, 1), row by row, half a step off the
    border."""
    offset = 1 / (2 * per_side)
    steps = np.linspace(offset, 1 - offset, per_side)
    x, y = np.meshgrid(steps, steps)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def point_grids(per_side: int, *, layers: int, downscale_factor: int) -> list[Points]:
    """Make a grid for each layer from 0 to `layers`, `downscale_factor` times coarser each time."""
    return [point_grid(int(per_side / downscale_factor**layer)) for layer in range(layers + 1)]
