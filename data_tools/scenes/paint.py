"""Compiled shading: one pass over a part's window lays down shadow, texture, light and owner."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from data_tools.scenes.noise import FINE, GRAIN, SMOOTH, TILE

PLAIN, STRIPES, CHECKS, WOOD, SPECKLES, MARBLE, BRICKS, DOTS, CLOUDS, FADE, BLADES = range(11)
"""Patterns. FADE runs from `base` at the top of the part to `other` at its bottom."""

# A material and its place as one float64 vector, since numba takes no keyword-only records.
BASE, OTHER = 0, 3
PATTERN, FREQUENCY, COSINE, SINE, ORIGIN_X, ORIGIN_Y, STRENGTH = range(6, 13)
ROUGHNESS, NOISE_SCALE, NOISE_U, NOISE_V = range(13, 17)
BEVEL, GLOSS, FADE_TOP, FADE_HEIGHT, CELL, MARGIN = range(17, 23)
SHADOW, SHADOW_X, SHADOW_Y, HORIZON, UNIT = range(23, 28)
WINDOW_X, WINDOW_Y, NODE = range(28, 31)
PARAMETERS = 31

_jit = numba.njit(cache=True, nogil=True)
_inline = numba.njit(cache=True, nogil=True, inline="always")


@_inline
def _lookup(tile: Any, u: Any, v: Any) -> Any:
    """Sample a periodic tile bilinearly; u, v in texels."""
    fu = np.floor(u)
    fv = np.floor(v)
    iu = int(fu) & (TILE - 1)
    iv = int(fv) & (TILE - 1)
    ju = (iu + 1) & (TILE - 1)
    jv = (iv + 1) & (TILE - 1)
    a = np.float32(u - fu)
    b = np.float32(v - fv)
    top = tile[iv, iu] + (tile[iv, ju] - tile[iv, iu]) * a
    low = tile[jv, iu] + (tile[jv, ju] - tile[jv, iu]) * a
    return top + (low - top) * b


@_inline
def _edge(x: Any, footprint: Any) -> Any:
    """Compute an antialiased step at 0; `footprint` is how much x changes over one pixel."""
    return min(max(x / max(footprint, 1e-6) + 0.5, 0.0), 1.0)


@_inline
def _wave(x: Any) -> Any:
    """Compute a triangle wave of period 1 between -0.5 and 0.5."""
    return abs(x - np.floor(x) - 0.5) * 2.0 - 0.5


@_jit
def _tiling(kind: int, u: float, v: float, pixel: float) -> Any:
    """Share of the second colour of a regular pattern, see `_pattern`."""
    if kind == CHECKS:
        a = _edge(_wave(u), 2.0 * pixel)
        b = _edge(_wave(v), 2.0 * pixel)
        return a + b - 2.0 * a * b
    if kind == BRICKS:
        row = np.floor(v)
        shifted = u * 0.5 + 0.5 * (row - 2.0 * np.floor(row * 0.5))
        a = _edge(abs(v - row - 0.5) - 0.42, pixel)
        b = _edge(abs(shifted - np.floor(shifted) - 0.5) - 0.45, pixel * 0.5)
        return max(a, b)
    du = u - np.floor(u) - 0.5
    dv = v - np.floor(v) - 0.5
    return _edge(0.28 - np.sqrt(du * du + dv * dv), pixel)


@_jit
def _pattern(kind: int, u: float, v: float, noise: Any, pixel: float) -> Any:
    """Share of the second colour; u, v in cycles, `pixel` cycles per pixel, noise (cloud, fine)."""
    cloud, fine = noise
    if kind in (CHECKS, BRICKS, DOTS):
        return _tiling(kind, u, v, pixel)
    if kind == STRIPES:
        return _edge(_wave(u + 0.04 * cloud), 2.0 * pixel)
    if kind == WOOD:
        ring = v + 0.5 * cloud
        saw = ring - np.floor(ring)
        # Rings finer than the pixels fade out instead of flickering.
        fade = min(1.0, 0.35 / max(pixel, 1e-6))
        return min(max(0.45 + (saw * saw - 0.33) * 0.9 * fade + 0.12 * fine, 0.0), 1.0)
    if kind == SPECKLES:
        return _edge(fine - 0.9, 0.5)
    if kind == MARBLE:
        return (1.0 - abs(np.sin(np.pi * (0.6 * u + 0.7 * cloud)))) ** 2
    share = min(max(0.5 + (0.45 if kind == CLOUDS else 0.3) * cloud, 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share) if kind == CLOUDS else share


@_inline
def _facing(normal: Any, x: Any, y: Any, light: Any) -> Any:
    """Compute the cosine between the light and the surface at (x, y), cells of the normals'
    grid."""
    rows, columns, _ = normal.shape
    x = min(max(x, 0.0), columns - 1.001)
    y = min(max(y, 0.0), rows - 1.001)
    i, j = int(y), int(x)
    b, a = np.float32(y - i), np.float32(x - j)
    top, low = normal[i], normal[i + 1]
    nx = (top[j, 0] * (1 - a) + top[j + 1, 0] * a) * (1 - b)
    nx += (low[j, 0] * (1 - a) + low[j + 1, 0] * a) * b
    ny = (top[j, 1] * (1 - a) + top[j + 1, 1] * a) * (1 - b)
    ny += (low[j, 1] * (1 - a) + low[j + 1, 1] * a) * b
    steep = nx * nx + ny * ny
    if steep > 0.9:
        # No surface that is seen at all faces fully sideways.
        shorten = np.sqrt(np.float32(0.9) / steep)
        nx *= shorten
        ny *= shorten
        steep = np.float32(0.9)
    return nx * light[0] + ny * light[1] + np.sqrt(1 - steep) * light[2]


@_inline
def _texture(kind: int, p: Any, tiles: Any, px: float, py: float) -> Any:
    """Compute (share of the second colour, fine noise) at (px, py), pixels of the picture."""
    x = (px - p[ORIGIN_X]) / p[UNIT]
    y = (py - p[ORIGIN_Y]) / p[UNIT]
    near = 1.0
    if p[HORIZON] > -1e6:
        near = 1.0 / (max((py - p[HORIZON]) / p[UNIT], 0.0) + 0.05)
        x = x * 0.5 * near
        y = -0.25 * near
    u = p[COSINE] * x + p[SINE] * y
    v = p[COSINE] * y - p[SINE] * x
    step = TILE * p[NOISE_SCALE]
    stretch_u = 0.25 if kind == WOOD else (2.5 if kind == BLADES else 1.0)
    stretch_v = 1.5 if kind == WOOD else (0.5 if kind == BLADES else 1.0)
    nu = p[NOISE_U] + u * step * stretch_u
    nv = p[NOISE_V] + v * step * stretch_v
    fine = _lookup(tiles[FINE], nu, nv)
    if kind == FADE:
        return min(max((py - p[FADE_TOP]) / p[FADE_HEIGHT], 0.0), 1.0), fine
    cloud = _lookup(tiles[SMOOTH], nu * 0.5, nv * 0.5)
    f = p[FREQUENCY]
    return _pattern(kind, u * f, v * f, (cloud, fine), f / p[UNIT] * near), fine


@_jit
def paint(  # noqa: PLR0917  (compiled functions take no keyword-only arguments)
    canvas: Any,
    owner: Any,
    cover: Any,
    normal: Any,
    near_shadow: Any,
    p: Any,
    tiles: Any,
    light: Any,
) -> None:
    """Paint one part onto `canvas` and enter it as owner where it covers half a pixel or more.

    Args:
        canvas: float32 [H, W, 3], RGB around [0, 1], changed in place.
        owner: int16 [W, H] (column-major, as COCO's RLE wants it), changed in place.
        cover: float32 [h, w] coverage in the window, which may reach beyond the picture.
        normal: float32 [rows, columns, 2] of `raster.normals`.
        near_shadow: float32 [h, w] `cover` blurred: darkness just beside the part.
        p: float64 [PARAMETERS], see the constants of this module; lengths in pixels.
        tiles: float32 [3, TILE, TILE].
        light: float32 [3] unit vector towards the light, x right, y down, z to the viewer.
    """
    h, w = cover.shape
    kind = int(p[PATTERN])
    x0, y0, node = int(p[WINDOW_X]), int(p[WINDOW_Y]), int(p[NODE])
    shade_x, shade_y = int(np.round(p[SHADOW_X])), int(np.round(p[SHADOW_Y]))
    darkness, bevel, gloss, rough = p[SHADOW], p[BEVEL], p[GLOSS], p[ROUGHNESS]
    per_cell, margin = 1.0 / p[CELL], p[MARGIN] - 0.5
    flat = normal.shape[0] == 1
    for i in range(max(-y0, 0), min(h, canvas.shape[0] - y0)):
        for j in range(max(-x0, 0), min(w, canvas.shape[1] - x0)):
            a = cover[i, j]
            si, sj = i - shade_y, j - shade_x
            if a < 1.0 and 0 <= si < h and 0 <= sj < w:
                dark = np.float32(1.0 - darkness * near_shadow[si, sj] * (1.0 - a))
                for c in range(3):
                    canvas[y0 + i, x0 + j, c] *= dark
            if a <= 0.004:
                continue
            share, fine = _texture(kind, p, tiles, x0 + j + 0.5, y0 + i + 0.5)
            share *= p[STRENGTH]
            facing = light[2]
            if not flat:
                column, line = (j + 0.5) * per_cell + margin, (i + 0.5) * per_cell + margin
                facing = _facing(normal, column, line, light)
            # Light from the sky keeps what is turned away from going black.
            shade = max(1.0 + bevel * (facing - light[2]), 0.42 + 0.12 * facing)
            shade *= 1.0 + rough * fine
            shine = gloss * (max(facing - 0.8, 0.0) * 5.0) ** 3 if gloss > 0.0 else 0.0
            for c in range(3):
                colour = (p[BASE + c] + (p[OTHER + c] - p[BASE + c]) * share) * shade + shine
                below = canvas[y0 + i, x0 + j, c]
                canvas[y0 + i, x0 + j, c] = below + np.float32(a * (max(colour, 0.0) - below))
            if a >= 0.5:
                owner[x0 + j, y0 + i] = node


@_jit
def tint(canvas: Any, soft: Any, corner: Any, colour: Any, strength: float) -> None:
    """Move the canvas towards `colour` by float32 [h, w] `soft` at `corner` times `strength`."""
    h, w = soft.shape
    x0, y0 = corner
    for i in range(max(-y0, 0), min(h, canvas.shape[0] - y0)):
        for j in range(max(-x0, 0), min(w, canvas.shape[1] - x0)):
            share = np.float32(strength * soft[i, j])
            for c in range(3):
                pixel = canvas[y0 + i, x0 + j, c]
                canvas[y0 + i, x0 + j, c] = pixel + share * (np.float32(colour[c]) - pixel)


@_jit
def develop(canvas: Any, tiles: Any, gains: Any, lens: Any, grain: float) -> Any:
    """Develop as a camera does: slight blur, vignette, white balance, contrast and sensor grain.

    Args:
        canvas: float32 [H, W, 3].
        tiles: float32 [3, TILE, TILE].
        gains: float32 [3] white balance times exposure.
        lens: (contrast about mid-grey, vignette in the corners, blur from 0 (sharp) to 1 (a
            binomial 3 x 3 filter)).
        grain: standard deviation of the noise in [0, 1] units.

    Returns:
        uint8 [H, W, 3].
    """
    contrast, vignette, blur = lens
    height, width, _ = canvas.shape
    out = np.empty((height, width, 3), np.uint8)
    side = np.float32(0.25 * blur)
    middle = np.float32(1.0 - 0.5 * blur)
    line = np.empty((width, 3), np.float32)
    for y in range(height):
        up = max(y - 1, 0)
        down = min(y + 1, height - 1)
        for x in range(width):
            for c in range(3):
                around = canvas[up, x, c] + canvas[down, x, c]
                line[x, c] = canvas[y, x, c] * middle + side * around
        dy = 2.0 * y / height - 1.0
        for x in range(width):
            left = max(x - 1, 0)
            right = min(x + 1, width - 1)
            dx = 2.0 * x / width - 1.0
            falloff = np.float32(1.0 - vignette * (dx * dx + dy * dy) * 0.5)
            common = tiles[GRAIN, y & (TILE - 1), x & (TILE - 1)]
            for c in range(3):
                value = line[x, c] * middle + side * (line[left, c] + line[right, c])
                value = 0.5 + (value * gains[c] * falloff - 0.5) * contrast
                # A shoulder instead of a hard clip, as film and phones have it.
                if value > 0.85:
                    value = 0.85 + 0.15 * (1.0 - np.exp(-(value - 0.85) / 0.15))
                own = tiles[GRAIN, (y + 97 * c) & (TILE - 1), (x + 41 + 67 * c) & (TILE - 1)]
                value += grain * (0.75 * common + 0.5 * own)
                out[y, x, c] = np.uint8(min(max(value * 255.0 + 0.5, 0.0), 255.0))
    return out
