"""Outlines of shapes: polygons float64 [n, 2] of (x, y), y downwards, in a unit square around 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Outline = npt.NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The place of an object: local coordinates to scene units (1 = the photo's shorter side)."""

    x: float
    y: float
    scale: float
    angle: float = 0.0
    """Radians, clockwise on the screen."""
    mirror: bool = False

    def to_scene(self, outline: Outline) -> Outline:
        """Map [n, 2] local points to [n, 2] scene units."""
        c, s = math.cos(self.angle) * self.scale, math.sin(self.angle) * self.scale
        flip = -1.0 if self.mirror else 1.0
        matrix = np.array([[c * flip, s * flip], [-s, c]])
        scene: Outline = outline @ matrix + (self.x, self.y)
        return scene


def ellipse(
    x: float = 0.0, y: float = 0.0, rx: float = 1.0, ry: float | None = None, *, sides: int = 40
) -> Outline:
    """Outline an ellipse with semi-axes `rx`, `ry` (a circle when `ry` is None)."""
    return _circle(sides) * (rx, rx if ry is None else ry) + (x, y)


@cache
def _circle(sides: int) -> Outline:
    """Outline the unit circle, which is asked for too often to compute it each time."""
    t = np.linspace(0.0, 2 * np.pi, sides, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1)


def box(x0: float, y0: float, x1: float, y1: float) -> Outline:
    """Outline an axis-aligned rectangle."""
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)


def round_box(x0: float, y0: float, x1: float, y1: float, radius: float) -> Outline:
    """Outline a rectangle with rounded corners."""
    radius = min(radius, abs(x1 - x0) / 2, abs(y1 - y0) / 2)
    quarter = np.linspace(0.0, np.pi / 2, 6)
    corners = ((x1, y1, 0), (x0, y1, 1), (x0, y0, 2), (x1, y0, 3))
    pieces = []
    for x, y, turn in corners:
        angle = quarter + turn * np.pi / 2
        cx = x - radius if x == x1 else x + radius
        cy = y - radius if y == y1 else y + radius
        pieces.append(np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], 1))
    return np.concatenate(pieces)


def blob(rng: Rng, *, wobble: float = 0.2, terms: int = 5, sides: int = 48) -> Outline:
    """Smooth closed curve around the unit circle; `wobble` is the typical radial deviation."""
    t = np.linspace(0.0, 2 * np.pi, sides, endpoint=False)
    k = np.arange(2, 2 + terms)[:, None]
    amplitude = rng.normal(size=(terms, 1)) * wobble / np.sqrt(k)
    phase = rng.uniform(0.0, 2 * np.pi, (terms, 1))
    radius = np.clip(1.0 + (amplitude * np.cos(k * t + phase)).sum(0), 0.45, 1.5)
    return np.stack([radius * np.cos(t), radius * np.sin(t)], 1)


def lumps(rng: Rng, *, count: int, depth: float = 0.18) -> Outline:
    """Outline a scalloped round shape of `count` bumps: crowns, bushes, clouds."""
    t = np.linspace(0.0, 2 * np.pi, 10 * count, endpoint=False)
    start = rng.uniform(0.0, np.pi)
    radius = 1.0 - depth + depth * np.abs(np.sin(0.5 * count * t + start)) ** 0.7
    radius *= 1.0 + 0.12 * np.cos(2 * t + rng.uniform(0.0, 6.0))
    radius *= 1.0 + 0.08 * np.cos(3 * t + rng.uniform(0.0, 6.0))
    return np.stack([radius * np.cos(t), radius * np.sin(t)], 1)


def polygon(rng: Rng, *, sides: int, jitter: float = 0.15) -> Outline:
    """Outline an irregular convex-looking polygon in the unit circle."""
    t = (np.arange(sides) + rng.uniform(-jitter, jitter, sides)) * 2 * np.pi / sides
    radius = 1.0 - rng.uniform(0.0, jitter, sides)
    return np.stack([radius * np.cos(t), radius * np.sin(t)], 1)


def star(*, points: int, inner: float) -> Outline:
    """Outline a star with its first point upwards."""
    t = np.arange(2 * points) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(t), radius * np.sin(t)], 1)


def lens(*, length: float = 1.0, width: float = 0.4, skew: float = 0.0) -> Outline:
    """Outline a leaf or fish body along x; `skew` > 0 moves the thickest place to the right."""
    t = np.linspace(-1.0, 1.0, 22)
    half = width * (1.0 - t**2) ** 0.8 * (1.0 + skew * t)
    top = np.stack([length * t, -half], 1)
    return np.concatenate([top, np.stack([length * t, half], 1)[-2:0:-1]])


def _spline(nodes: Outline, steps: int = 5) -> Outline:
    """Interpolate a Catmull-Rom curve through [n, 2] nodes, `steps` points to each piece."""
    p = np.concatenate([nodes[:1], nodes, nodes[-1:]])[:, None]
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = p[:-3], p[1:-2], p[2:-1], p[3:]
    bend = 2 * p0 - 5 * p1 + 4 * p2 - p3
    pieces = p1 + 0.5 * t * (p2 - p0 + t * (bend + t * (3 * (p1 - p2) + p3 - p0)))
    return np.concatenate([pieces.reshape(-1, 2), nodes[-1:]])


def turned(profile: Sequence[tuple[float, float]], *, smooth: bool = True) -> Outline:
    """Outline a turned body: mirror a profile of (half width, y) pairs, top to bottom."""
    nodes = np.asarray(profile, dtype=np.float64)
    if smooth:
        nodes = _spline(nodes)
        nodes[:, 0] = np.maximum(nodes[:, 0], 0.0)
    return np.concatenate([nodes, (nodes * (-1.0, 1.0))[::-1]])


def stroke(path: npt.ArrayLike, width: float | Sequence[float]) -> Outline:
    """Outline a line of `width` along [n, 2] points; two widths taper from first to last."""
    nodes = np.asarray(path, dtype=np.float64)
    along = np.gradient(nodes, axis=0)
    along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-9)
    side = np.stack([-along[:, 1], along[:, 0]], 1)
    ends = np.atleast_1d(np.asarray(width, dtype=np.float64))
    half = np.linspace(ends[0], ends[-1], len(nodes))[:, None] / 2
    return np.concatenate([nodes + side * half, (nodes - side * half)[::-1]])


def arc(
    x: float, y: float, rx: float, ry: float, *, start: float, stop: float, steps: int = 14
) -> Outline:
    """Open path along an ellipse, angles in turns (0 right, .25 down)."""
    t = np.linspace(start, stop, steps) * 2 * np.pi
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1)


def place(
    outline: Outline,
    x: float = 0.0,
    y: float = 0.0,
    scale: float | tuple[float, float] = 1.0,
    turn: float = 0.0,
) -> Outline:
    """Scale, then turn (in turns, clockwise), then move."""
    angle = turn * 2 * np.pi
    c, s = math.cos(angle), math.sin(angle)
    placed: Outline = (outline * scale) @ np.array([[c, s], [-s, c]]) + (x, y)
    return placed
