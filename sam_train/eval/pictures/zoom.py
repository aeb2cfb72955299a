"""The part of a photo that a filmstrip shows, or click markers would cover a small object."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_MARGIN = 0.75
"""Room on each side of the object, as a share of its longer side."""
_LEAST = 1.5
"""Closer than this, or the whole photo is shown."""
_FEWEST = 24
"""Pixels of the photo that a cell shows at least: fewer are no picture any more."""


Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A part of a photo with the photo's own proportions."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: npt.NDArray[Kind]) -> npt.NDArray[Kind]:
        """Cut the part out of an array [h, w, ...]."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


def closer(truth: npt.NDArray[np.bool_], points: Iterable[tuple[float, float]]) -> View | None:
    """Return the part of a photo around an object and its prompts; None where that is most of it.

    Args:
        truth: [h, w] the object.
        points: (x, y) clicks and corners of boxes, which must be seen, too.
    """
    rows, columns = np.nonzero(truth)
    given = list(points)
    if not len(rows):
        return None
    x = [float(columns.min()), float(columns.max()), *(point[0] for point in given)]
    y = [float(rows.min()), float(rows.max()), *(point[1] for point in given)]
    height, width = truth.shape
    margin = _MARGIN * max(columns.max() - columns.min() + 1, rows.max() - rows.min() + 1)
    wide, high = max(x) - min(x) + 1 + 2 * margin, max(y) - min(y) + 1 + 2 * margin
    zoom = min(width / max(wide, _FEWEST), height / max(high, _FEWEST))
    if zoom < _LEAST:
        return None
    own_height, own_width = math.ceil(height / zoom), math.ceil(width / zoom)
    return View(
        top=_begin((min(y) + max(y)) / 2, own_height, height),
        left=_begin((min(x) + max(x)) / 2, own_width, width),
        height=own_height,
        width=own_width,
    )


def _begin(middle: float, length: int, whole: int) -> int:
    # At the photo's edge the view is moved, not cut: cells of a row have one size.
    return int(min(max(0, round(middle - length / 2)), whole - length))
