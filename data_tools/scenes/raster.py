"""Compiled pixel loops: exact polygon coverage and soft blurs.

Coverage is computed analytically (signed trapezoid areas accumulated along each row), so edges
are antialiased at any image size without drawing larger and scaling down.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]


@numba.njit(cache=True, nogil=True)
def bounds(points: Any) -> Any:
    """Return float64 [4]: smallest x, smallest y, largest x, largest y of [n, 2] points."""
    result = np.empty(4)
    result[0], result[1] = points[0]
    result[2], result[3] = points[0]
    for k in range(1, len(points)):
        result[0] = min(result[0], points[k, 0])
        result[1] = min(result[1], points[k, 1])
        result[2] = max(result[2], points[k, 0])
        result[3] = max(result[3], points[k, 1])
    return result


@numba.njit(cache=True, nogil=True)
def local_means(image: Any, at: Any, reach: int) -> Any:
    """Average colours to float64 [n, 3] over squares of 2 * reach + 1 pixels at [n, 2] (x, y)."""
    height, width, _ = image.shape
    result = np.zeros((len(at), 3))
    for k in range(len(at)):
        x = min(max(int(at[k, 0]), 0), width - 1)
        y = min(max(int(at[k, 1]), 0), height - 1)
        count = 0
        for i in range(max(y - reach, 0), min(y + reach + 1, height)):
            for j in range(max(x - reach, 0), min(x + reach + 1, width)):
                count += 1
                for c in range(3):
                    result[k, c] += image[i, j, c]
        result[k] /= count
    return result


@numba.njit(cache=True, nogil=True)
def _add_span(row: Any, x_from: float, x_to: float, signed: float) -> None:
    """Spread one edge's `signed` height over the pixels between its ends on this row."""
    left = min(x_from, x_to)
    right = max(x_from, x_to)
    first = int(np.floor(left))
    last = int(np.ceil(right))
    if last <= first + 1:
        middle = 0.5 * (left + right) - first
        row[first] += signed * (1.0 - middle)
        row[first + 1] += signed * middle
        return
    slope = 1.0 / (right - left)
    before = 0.0
    for column in range(first, last):
        # Area left of the edge within this pixel, as a running total over the crossed pixels.
        a = max(left, float(column))
        b = min(right, float(column + 1))
        share = (b - a) * slope
        inside = share * (column + 1 - 0.5 * (a + b))
        row[column] += signed * (before + inside)
        before = share - inside
    row[last] += signed * before


@numba.njit(cache=True, nogil=True)
def coverage(points: Any, ends: Any, height: int, width: int) -> Any:
    """Measure how much of each pixel lies inside the polygons.

    Args:
        points: float64 [n, 2] (x, y) in pixels of the window, (0, 0) its top left corner; the
            vertices of all polygons one after the other.
        ends: int64 [p] index after the last vertex of each polygon.
        height, width: of the window; polygons are clipped to it.

    Returns:
        float32 [height, width] in [0, 1]; overlapping polygons unite.
    """
    total = np.zeros((height, width), np.float32)
    row_sums = np.zeros((height, width + 2), np.float64)
    begin = 0
    for end in ends:
        row_sums[:] = 0.0
        lowest = float(height)
        highest = 0.0
        for k in range(begin, end):
            x0, y0 = points[k]
            x1, y1 = points[k + 1 if k + 1 < end else begin]
            lowest = min(lowest, y0)
            highest = max(highest, y0)
            if y0 == y1:
                continue
            sign = 1.0
            if y0 > y1:
                sign = -1.0
                x0, y0, x1, y1 = x1, y1, x0, y0
            slope = (x1 - x0) / (y1 - y0)
            for y in range(max(0, int(np.floor(y0))), min(height, int(np.ceil(y1)))):
                top = max(y0, float(y))
                bottom = min(y1, float(y + 1))
                xa = min(max(x0 + (top - y0) * slope, 0.0), float(width))
                xb = min(max(x0 + (bottom - y0) * slope, 0.0), float(width))
                _add_span(row_sums[y], xa, xb, sign * (bottom - top))
        begin = end
        for y in range(max(0, int(np.floor(lowest))), min(height, int(np.ceil(highest)))):
            running = 0.0
            for x in range(width):
                running += row_sums[y, x]
                value = min(abs(running), 1.0)
                # Union of independent covers: exact where either is 0 or 1.
                total[y, x] += (1.0 - total[y, x]) * value
    return total


@numba.njit(cache=True, nogil=True)
def _box_columns(source: Any, target: Any, radius: int) -> None:
    """Average 2 * radius + 1 cells down each column, zeros beyond the border."""
    height, width = source.shape
    scale = np.float32(1.0 / (2 * radius + 1))
    sums = np.zeros(width, np.float32)
    for y in range(min(radius, height)):
        for x in range(width):
            sums[x] += source[y, x]
    for y in range(height):
        if y + radius < height:
            for x in range(width):
                sums[x] += source[y + radius, x]
        for x in range(width):
            target[y, x] = sums[x] * scale
        if y - radius >= 0:
            for x in range(width):
                sums[x] -= source[y - radius, x]


@numba.njit(cache=True, nogil=True)
def _box_rows(source: Any, target: Any, radius: int) -> None:
    """Average 2 * radius + 1 cells along each row, zeros beyond the border."""
    height, width = source.shape
    scale = np.float32(1.0 / (2 * radius + 1))
    for y in range(height):
        running = np.float32(0.0)
        for x in range(min(radius, width)):
            running += source[y, x]
        for x in range(width):
            if x + radius < width:
                running += source[y, x + radius]
            target[y, x] = running * scale
            if x - radius >= 0:
                running -= source[y, x - radius]


@numba.njit(cache=True, nogil=True)
def soften(image: Any, radius: int) -> Any:
    """Blur float32 [h, w] by three box filters of `radius` pixels each way.

    Three, because the slope of the result lights the scene: after two it has visible creases.
    """
    if radius < 1:
        return image.copy()
    result = np.empty_like(image)
    spare = np.empty_like(image)
    _box_columns(image, spare, radius)
    _box_rows(spare, result, radius)
    for _ in range(2):
        _box_columns(result, spare, radius)
        _box_rows(spare, result, radius)
    return result


@numba.njit(cache=True, nogil=True)
def normals(cover: Any, radius: int) -> Any:
    """Compute which way a body with a rounded edge faces.

    The height of the body is its coverage, softened; it is computed on coarse cells, since a
    wide bevel is smooth, with room around for what the filters spread beyond the window.

    Args:
        cover: float32 [h, w].
        radius: half the width of the rounded edge in pixels; 0 gives a flat body.

    Returns:
        float32 [rows, columns, 2]: x and y of the unit normal at the middle of each cell,
        int cell side in pixels, int number of cells between the border and the window.
    """
    if radius < 1:
        return np.zeros((1, 1, 2), np.float32), 1, 0
    height, width = cover.shape
    cell = max(1, radius // 3)
    reach = max(1, radius // cell)
    margin = 3 * reach + 1
    rows = (height + cell - 1) // cell + 2 * margin
    columns = (width + cell - 1) // cell + 2 * margin
    coarse = np.zeros((rows, columns), np.float32)
    share = np.float32(1.0 / (cell * cell))
    for y in range(height):
        line = coarse[y // cell + margin]
        for x in range(width):
            line[x // cell + margin] += cover[y, x] * share
    soft = soften(coarse, reach)
    result = np.zeros((rows, columns, 2), np.float32)
    steepest = np.float32(1e-6)
    for y in range(1, rows - 1):
        for x in range(1, columns - 1):
            nx = soft[y, x - 1] - soft[y, x + 1]
            ny = soft[y - 1, x] - soft[y + 1, x]
            result[y, x, 0], result[y, x, 1] = nx, ny
            steepest = max(steepest, nx * nx + ny * ny)
    # Upright at its steepest, however much the filters flattened a small or round body.
    result /= np.sqrt(steepest)
    return result, cell, margin


@numba.njit(cache=True, nogil=True)
def largest_component(columns: Any, node_set: Any, box: Any, stack: Any) -> Any:
    """Measure a mask given as a set of owners, and its components.

    Args:
        columns: int16 [W, H] owner of each pixel, -1 for nobody.
        node_set: bool [n + 1], entry k + 1 True where owner k belongs to the mask; entry 0 is -1.
        box: int64 [4] x0 y0 x1 y1 (exclusive) that encloses the mask.
        stack: int64 scratch space of at least 2 * W * H.

    Returns:
        int64 [3]: area, area of the largest 4-connected component, and how many pixels have all
        four neighbours in the mask (0 for anything at most two pixels thick).
    """
    x0, y0, x1, y1 = box
    width = x1 - x0
    height = y1 - y0
    seen = np.zeros((width, height), np.bool_)
    result = np.zeros(3, np.int64)
    for sx in range(width):
        for sy in range(height):
            if seen[sx, sy] or not node_set[columns[x0 + sx, y0 + sy] + 1]:
                continue
            seen[sx, sy] = True
            stack[0] = sx * height + sy
            depth = 1
            area = 0
            while depth:
                depth -= 1
                x, y = divmod(stack[depth], height)
                area += 1
                around = 0
                for step in range(4):
                    nx = x + (step == 0) - (step == 1)
                    ny = y + (step == 2) - (step == 3)
                    if nx < 0 or ny < 0 or nx >= width or ny >= height:
                        continue
                    if not node_set[columns[x0 + nx, y0 + ny] + 1]:
                        continue
                    around += 1
                    if not seen[nx, ny]:
                        seen[nx, ny] = True
                        stack[depth] = nx * height + ny
                        depth += 1
                result[2] += around == 4
            result[0] += area
            result[1] = max(result[1], area)
    return result
