"""Ground-truth masks of what is visible, from the owner of each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from data_tools.scenes.canvas import Canvas
from data_tools.scenes.raster import largest_component

SMALLEST = 14
"""Visible pixels a mask needs in a photo of 256 pixels a side; grows with the photo."""

TINY = 220
"""Below so many pixels, on the same scale, only one mask in three is kept."""


@dataclass(frozen=True, slots=True)
class Masks:
    """Visible masks of a scene."""

    stack: npt.NDArray[np.bool_]
    """[N, H, W]."""
    parents: list[int]
    """Index of the smallest mask that holds mask k because k is a part of it; -1 for none."""


@numba.njit(cache=True, nogil=True)
def _extents(owner: Any, parents: Any) -> Any:
    """Measure int64 [n, 5]: x0 y0 x1 y1 (exclusive) and visible area of each node with its
    descendants."""
    width, height = owner.shape
    count = len(parents)
    result = np.zeros((count, 5), np.int64)
    result[:, 0] = width
    result[:, 1] = height
    for x in range(width):
        for y in range(height):
            node = owner[x, y]
            if node >= 0:
                row = result[node]
                row[0] = min(row[0], x)
                row[1] = min(row[1], y)
                row[2] = max(row[2], x + 1)
                row[3] = max(row[3], y + 1)
                row[4] += 1
    for node in range(count - 1, -1, -1):
        parent = parents[node]
        if parent >= 0:
            result[parent, 0] = min(result[parent, 0], result[node, 0])
            result[parent, 1] = min(result[parent, 1], result[node, 1])
            result[parent, 2] = max(result[parent, 2], result[node, 2])
            result[parent, 3] = max(result[parent, 3], result[node, 3])
            result[parent, 4] += result[node, 4]
    return result


@numba.njit(cache=True, nogil=True)
def _fill(owner: Any, node_set: Any, box: Any, target: Any) -> None:
    for x in range(box[0], box[2]):
        for y in range(box[1], box[3]):
            target[x, y] = node_set[owner[x, y] + 1]


def visible_masks(canvas: Canvas) -> Masks:
    """Collect the masks of a finished canvas.

    Left out: what is hidden, smaller than `SMALLEST`, torn apart by what lies before it, almost
    everything (90 % of the photo), or all but the same as the mask of its own largest part.
    """
    nodes = canvas.nodes
    parents = np.array([node.parent for node in nodes], dtype=np.int64)
    painted = np.array([node.painted for node in nodes])
    for number in range(len(nodes) - 1, -1, -1):
        if parents[number] >= 0:
            painted[parents[number]] += painted[number]
    extents = _extents(canvas.owner, parents)
    pixels = canvas.width * canvas.height
    smallest = max(SMALLEST * canvas.unit**2 / 256**2, 4.0)
    stack = np.empty(2 * pixels + 4, np.int64)
    chosen: list[int] = []
    sets: list[npt.NDArray[np.bool_]] = []
    for number, node in enumerate(nodes):
        area = int(extents[number, 4])
        if not node.mask or area < smallest or area > 0.9 * pixels:
            continue
        if area < smallest * TINY / SMALLEST and canvas.rng.random() > 1 / 3:
            continue
        members = _family(parents, number)
        if not node.thin and not _is_whole(canvas, members, extents[number], area, stack):
            continue
        if area < 0.15 * painted[number]:
            continue
        if any(extents[other, 4] > 0.93 * area for other in chosen if members[other + 1]):
            continue
        above = _nearest(parents, number, chosen)
        if above >= 0 and area > 0.93 * extents[chosen[above], 4]:
            continue
        chosen.append(number)
        sets.append(members)
    columns = np.zeros((len(chosen), canvas.width, canvas.height), np.bool_)
    for k, number in enumerate(chosen):
        _fill(canvas.owner, sets[k], extents[number], columns[k])
    above_each = [_nearest(parents, number, chosen) for number in chosen]
    return Masks(columns.transpose(0, 2, 1), above_each)


def _family(parents: npt.NDArray[np.int64], number: int) -> npt.NDArray[np.bool_]:
    """Mark `number` and its descendants in bool [n + 1]: entry k + 1 is node k, entry 0 is
    'nobody'."""
    members = np.zeros(len(parents) + 1, np.bool_)
    members[number + 1] = True
    for other in range(number + 1, len(parents)):
        members[other + 1] = parents[other] >= 0 and members[parents[other] + 1]
    return members


def _is_whole(
    canvas: Canvas,
    members: npt.NDArray[np.bool_],
    extent: npt.NDArray[np.int64],
    area: int,
    stack: npt.NDArray[np.int64],
) -> bool:
    """Return whether the mask is one solid piece, more or less."""
    _, largest, solid = largest_component(canvas.owner, members, extent[:4], stack)
    return bool(largest >= 0.7 * area and solid >= 0.1 * area)


def _nearest(parents: npt.NDArray[np.int64], number: int, chosen: list[int]) -> int:
    """Index in `chosen` of the closest ancestor of `number` that is a mask, or -1."""
    node = int(parents[number])
    while node >= 0:
        if node in chosen:
            return chosen.index(node)
        node = int(parents[node])
    return -1
