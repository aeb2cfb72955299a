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
BEVEL, RADIUS, GLOSS, FADE_TOP, FADE_HEIGHT = range(17, 22)
SHADOW, SHADOW_X, SHADOW_Y, HORIZON, UNIT = range(22, 27)
PARAMETERS = 27

_jit = numba.njit(cache=True, nogil=True)
_inline = numba.njit(cache=True, nogil=True, inline="always")


@_inline
def _lookup(tile: Any, u: float, v: float) -> Any:
    """Bilinear sample of a periodic tile; u, v in texels."""
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
def _edge(x: float, footprint: float) -> float:
    """Antialiased step at 0; `footprint` is how much x changes over one pixel."""
    return min(max(x / max(footprint, 1e-6) + 0.5, 0.0), 1.0)


@_inline
def _wave(x: float) -> float:
    """Triangle wave of period 1 between -0.5 and 0.5."""
    return abs(x - np.floor(x) - 0.5) * 2.0 - 0.5


@_jit
def _pattern(kind: int, u: float, v: float, cloud: float, fine: float, pixel: float) -> float:
    """Share of the second colour; u, v in cycles, `pixel` cycles per pixel."""
    if kind == STRIPES:
        return _edge(_wave(u + 0.04 * cloud), 2.0 * pixel)
    if kind == CHECKS:
        a = _edge(_wave(u), 2.0 * pixel)
        b = _edge(_wave(v), 2.0 * pixel)
        return a + b - 2.0 * a * b
    if kind == WOOD:
        ring = v + 0.5 * cloud
        saw = ring - np.floor(ring)
        fade = min(1.0, 0.35 / max(pixel, 1e-6))
        return min(max(0.45 + (saw * saw - 0.33) * 0.9 * fade + 0.12 * fine, 0.0), 1.0)
    if kind == SPECKLES:
        return _edge(fine - 0.9, 0.5)
    if kind == MARBLE:
        return (1.0 - abs(np.sin(np.pi * (0.6 * u + 0.7 * cloud)))) ** 2
    if kind == BRICKS:
        row = np.floor(v)
        shifted = u * 0.5 + 0.5 * (row - 2.0 * np.floor(row * 0.5))
        a = _edge(abs(v - row - 0.5) - 0.42, pixel)
        b = _edge(abs(shifted - np.floor(shifted) - 0.5) - 0.45, pixel * 0.5)
        return max(a, b)
    if kind == DOTS:
        du = u - np.floor(u) - 0.5
        dv = v - np.floor(v) - 0.5
        return _edge(0.28 - np.sqrt(du * du + dv * dv), pixel)
    if kind == CLOUDS:
        t = min(max(0.5 + 0.45 * cloud + 0.08 * fine, 0.0), 1.0)
        return t * t * (3.0 - 2.0 * t)
    return min(max(0.5 + 0.3 * cloud, 0.0), 1.0)


@_jit
def paint(
    canvas: Any,
    owner: Any,
    cover: Any,
    soft: Any,
    near_shadow: Any,
    x0: int,
    y0: int,
    node: int,
    p: Any,
    tiles: Any,
    light: Any,
) -> None:
    """Paint one part onto `canvas` and enter it as owner where it covers half a pixel or more.

    Args:
        canvas: float32 [H, W, 3], linear-looking RGB around [0, 1], changed in place.
        owner: int16 [W, H] (column-major, as COCO's RLE wants it), changed in place.
        cover: float32 [h, w] coverage in the window whose top left corner is (x0, y0), which may
            lie outside the picture.
        soft: float32 [h, w] `cover` blurred: height field of the bevel.
        near_shadow: float32 [h, w] `cover` blurred: darkness just beside the part.
        node: this part's number, or -1 to leave `owner` alone.
        p: float64 [PARAMETERS], see the constants of this module; lengths in pixels.
        tiles: float32 [3, TILE, TILE].
        light: float32 [3] unit vector towards the light, x right, y down, z to the viewer.
    """
    h, w = cover.shape
    kind = int(p[PATTERN])
    step = TILE * p[NOISE_SCALE]
    shade_x = int(np.round(p[SHADOW_X]))
    shade_y = int(np.round(p[SHADOW_Y]))
    slope = 2.0 * p[RADIUS]
    for i in range(max(-y0, 0), min(h, canvas.shape[0] - y0)):
        for j in range(max(-x0, 0), min(w, canvas.shape[1] - x0)):
            a = cover[i, j]
            si = i - shade_y
            sj = j - shade_x
            pixel_row = canvas[y0 + i, x0 + j]
            if a < 1.0 and 0 <= si < h and 0 <= sj < w:
                dark = np.float32(1.0 - p[SHADOW] * near_shadow[si, sj] * (1.0 - a))
                for c in range(3):
                    pixel_row[c] *= dark
            if a <= 0.004:
                continue
            x = (x0 + j + 0.5 - p[ORIGIN_X]) / p[UNIT]
            y = (y0 + i + 0.5 - p[ORIGIN_Y]) / p[UNIT]
            near = 1.0
            if p[HORIZON] > -1e6:
                depth = max((y0 + i + 0.5 - p[HORIZON]) / p[UNIT], 0.0) + 0.05
                near = 1.0 / depth
                x = x * 0.5 * near
                y = -0.25 * near
            u = p[COSINE] * x + p[SINE] * y
            v = p[COSINE] * y - p[SINE] * x
            nu = p[NOISE_U] + u * step
            nv = p[NOISE_V] + v * step
            if kind == WOOD:
                nu = p[NOISE_U] + u * step * 0.25
                nv = p[NOISE_V] + v * step * 1.5
            elif kind == BLADES:
                nu = p[NOISE_U] + u * step * 2.5
                nv = p[NOISE_V] + v * step * 0.5
            cloud = _lookup(tiles[SMOOTH], nu * 0.5, nv * 0.5)
            fine = _lookup(tiles[FINE], nu, nv)
            pixel = p[FREQUENCY] / p[UNIT] * near
            if kind == FADE:
                t = min(max((y0 + i + 0.5 - p[FADE_TOP]) / p[FADE_HEIGHT], 0.0), 1.0)
            else:
                t = _pattern(kind, u * p[FREQUENCY], v * p[FREQUENCY], cloud, fine, pixel)
            t *= p[STRENGTH]
            gy = soft[min(i + 1, h - 1), j] - soft[max(i - 1, 0), j]
            gx = soft[i, min(j + 1, w - 1)] - soft[i, max(j - 1, 0)]
            nx = -gx * slope * 0.5
            ny = -gy * slope * 0.5
            flat = nx * nx + ny * ny
            if flat > 0.9:
                nx *= np.sqrt(0.9 / flat)
                ny *= np.sqrt(0.9 / flat)
                flat = 0.9
            facing = nx * light[0] + ny * light[1] + np.sqrt(1.0 - flat) * light[2]
            shade = 1.0 + p[BEVEL] * (facing - light[2])
            shade *= 1.0 + p[ROUGHNESS] * fine
            shine = 0.0
            if p[GLOSS] > 0.0 and facing > 0.8:
                shine = p[GLOSS] * ((facing - 0.8) * 5.0) ** 3
            for c in range(3):
                colour = (p[BASE + c] + (p[OTHER + c] - p[BASE + c]) * t) * shade + shine
                pixel_row[c] += np.float32(a * (max(colour, 0.0) - pixel_row[c]))
            if a >= 0.5 and node >= 0:
                owner[x0 + j, y0 + i] = node


@_jit
def tint(canvas: Any, soft: Any, x0: int, y0: int, colour: Any, strength: float) -> None:
    """Move the canvas towards `colour` by float32 [h, w] `soft` times `strength`."""
    h, w = soft.shape
    for i in range(max(-y0, 0), min(h, canvas.shape[0] - y0)):
        for j in range(max(-x0, 0), min(w, canvas.shape[1] - x0)):
            share = np.float32(strength * soft[i, j])
            for c in range(3):
                pixel = canvas[y0 + i, x0 + j, c]
                canvas[y0 + i, x0 + j, c] = pixel + share * (np.float32(colour[c]) - pixel)


@_jit
def develop(
    canvas: Any, tiles: Any, gains: Any, contrast: float, vignette: float, grain: float, blur: float
) -> Any:
    """The camera: slight blur, vignette, white balance, contrast and sensor grain.

    Args:
        canvas: float32 [H, W, 3].
        gains: float32 [3] white balance times exposure.
        grain: standard deviation of the noise in [0, 1] units.
        blur: 0 (sharp) to 1 (a binomial 3 x 3 filter).

    Returns:
        uint8 [H, W, 3].
    """
    height, width, _ = canvas.shape
    out = np.empty((height, width, 3), np.uint8)
    side = np.float32(0.25 * blur)
    middle = np.float32(1.0 - 0.5 * blur)
    rows = np.empty((2, width, 3), np.float32)
    for y in range(height):
        up = max(y - 1, 0)
        down = min(y + 1, height - 1)
        line = rows[0]
        for x in range(width):
            for c in range(3):
                line[x, c] = canvas[y, x, c] * middle + side * (
                    canvas[up, x, c] + canvas[down, x, c]
                )
        dy = (y - 0.5 * height) / (0.5 * height)
        for x in range(width):
            left = max(x - 1, 0)
            right = min(x + 1, width - 1)
            dx = (x - 0.5 * width) / (0.5 * width)
            falloff = np.float32(1.0 - vignette * (dx * dx + dy * dy) * 0.5)
            common = tiles[GRAIN, y & (TILE - 1), x & (TILE - 1)]
            for c in range(3):
                value = line[x, c] * middle + side * (line[left, c] + line[right, c])
                value = value * gains[c] * falloff
                value = 0.5 + (value - 0.5) * contrast
                # A shoulder instead of a hard clip, as film and phones have it.
                if value > 0.85:
                    value = 0.85 + 0.15 * (1.0 - np.exp(-(value - 0.85) / 0.15))
                own = tiles[GRAIN, (y + 97 * c) & (TILE - 1), (x + 41 + 67 * c) & (TILE - 1)]
                value += grain * (0.75 * common + 0.5 * own)
                out[y, x, c] = np.uint8(min(max(value * 255.0 + 0.5, 0.0), 255.0))
    return out
