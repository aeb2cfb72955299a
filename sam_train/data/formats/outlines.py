"""Masks from the shapes that people draw: outlines, boxes, ellipses, and pictures of a region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from sam_train.data.formats.segmentation import parse_segmentation
from sam_train.masks.runs import Segmentation, check_size, compressed, runs_between

_CORNERS = 120
"""Corners of an ellipse, whose area is then exact to a two-thousandth."""


def outline_mask(corners: Any, height: int, width: int) -> Segmentation:
    """Rasterise one outline, by the rules for COCO's polygons.

    Args:
        corners: a list of [x, y], or x, y, x, y.
        height: of the photo, and
        width: in pixels.

    Raises:
        ValueError: it encloses nothing, lies far outside the photo, or is no list of numbers.
    """
    flat = [value for pair in corners for value in (pair if isinstance(pair, list) else [pair])]
    return parse_segmentation(msgspec.json.encode([flat]), height, width)


def box_outline(
    left: float, top: float, right: float, bottom: float, *, degrees: float = 0.0
) -> list[float]:
    """Return the corners of a box, turned clockwise about its centre."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return _turned(corners, corners.mean(axis=0), degrees)


def ellipse_outline(
    x: float, y: float, across: float, down: float, *, degrees: float = 0.0
) -> list[float]:
    """Return the corners of an ellipse.

    Args:
        x: of its centre, and
        y: in pixels.
        across: half its width before it is turned, and
        down: half its height.
        degrees: clockwise turn about its centre.
    """
    angles = np.arange(_CORNERS) * (2 * math.pi / _CORNERS)
    corners = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], axis=1)
    return _turned(corners, np.array([x, y]), degrees)


def _turned(
    corners: npt.NDArray[np.float64], centre: npt.NDArray[np.float64], degrees: float
) -> list[float]:
    angle = math.radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    # y grows downwards, so this turn looks clockwise.
    turn = np.array([[cosine, sine], [-sine, cosine]])
    found: list[float] = ((corners - centre) @ turn + centre).ravel().tolist()
    return found


def picture_mask(
    pixels: npt.NDArray[np.bool_], *, left: int, top: int, height: int, width: int
) -> Segmentation:
    """Place a picture of a region in a photo; what lies outside of the photo is cut off.

    Args:
        pixels: bool [h, w].
        left: column of its first pixel in the photo, and
        top: row.
        height: of the photo, and
        width: in pixels.

    Raises:
        ValueError: the photo's size is out of range.
    """
    check_size(height=height, width=width)
    inside = pixels[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    row, column = max(top, 0), max(left, 0)
    # Runs of the region alone: the photo may be a thousand times larger.
    edges = np.diff(inside.astype(np.int8), axis=0, prepend=0, append=0) != 0
    columns, rows = np.nonzero(edges.T)
    flips = (columns.astype(np.int64) + column) * height + rows + row
    runs = runs_between(flips, total=height * width)
    return compressed(runs, height=height, width=width)


def region_of_runs(counts: Sequence[int], *, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of row-major runs, background first: bool [height, width].

    Raises:
        ValueError: the runs do not fill the region.
    """
    check_size(height=height, width=width)
    runs = np.asarray(counts, dtype=np.int64)
    if runs.size and (runs.min() < 0 or runs.max() > height * width):
        raise ValueError("the runs do not fit their region")
    if int(runs.sum()) != height * width:
        raise ValueError(f"the runs cover {int(runs.sum())} pixels of {height * width}")
    values = np.arange(runs.size) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)
