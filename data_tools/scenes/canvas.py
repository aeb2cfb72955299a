"""The picture in the making: paints things part by part and remembers who owns each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from data_tools.scenes import paint as kernel
from data_tools.scenes.colours import Colour
from data_tools.scenes.geometry import Frame, Outline, Rng
from data_tools.scenes.noise import TILE, noise_tiles
from data_tools.scenes.parts import Material, Part
from data_tools.scenes.raster import bounds, coverage, local_means, normals, soften


@dataclass(slots=True)
class Node:
    """A part as it was painted."""

    parent: int
    """Number of the part it hangs on; -1 for a thing itself."""
    mask: bool
    thin: bool
    painted: float
    """Pixels it covered when it was painted, before anything came before it."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Coverage of a part within a rectangle that may reach beyond the picture."""

    cover: npt.NDArray[np.float32]
    x0: int
    y0: int


class Canvas:
    """A picture of any size on which lengths are in scene units (1 = its shorter side).

    Attributes:
        image: float32 [H, W, 3].
        owner: int16 [W, H], number of the topmost part of each pixel, -1 for none.
        nodes: the parts by number; a part's number is higher than its parent's.
    """

    def __init__(self, rng: Rng, *, height: int, width: int) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.unit = float(min(height, width))
        self.image = np.zeros((height, width, 3), np.float32)
        self.owner = np.full((width, height), -1, np.int16)
        self.nodes: list[Node] = []
        angle = rng.uniform(-2.6, -0.5)
        lift = rng.uniform(0.45, 0.75)
        flat = np.sqrt(1.0 - lift**2)
        self.light = np.array([np.cos(angle) * flat, np.sin(angle) * flat, lift], np.float32)
        """Unit vector towards the light: x right, y down, z to the viewer."""

    @property
    def right(self) -> float:
        """Width in scene units."""
        return self.width / self.unit

    @property
    def bottom(self) -> float:
        """Height in scene units."""
        return self.height / self.unit

    def colour_at(self, x: float, y: float, reach: float) -> list[Colour]:
        """Sample three or so colours that stand around (x, y), scene units, for contrast with
        them."""
        spots = ((0.0, 0.0), (-reach, 0.0), (reach, 0.0), (0.0, -reach), (0.0, reach))
        at = np.add(spots, (x, y)) * self.unit
        return list(local_means(self.image, at, max(int(0.02 * self.unit), 1)))

    def backdrop(self, part: Part, *, horizon: float | None = None) -> None:
        """Paint a region of the scene (wall, ground, hill), its outline in scene units.

        `horizon`, in scene units, makes its texture recede towards that line.
        """
        self._paint(part, Frame(x=0.0, y=0.0, scale=1.0), -1, None, horizon)

    def add(self, thing: Part, frame: Frame) -> None:
        """Paint a thing and all that hangs on it."""
        self._paint(thing, frame, -1, None, None)

    def veil(
        self,
        outlines: Sequence[Outline],
        *,
        softness: float,
        strength: float,
        colour: Colour | None = None,
    ) -> None:
        """Lay a soft shadow (or light of `colour`) over what is there, lengths in scene units."""
        colour = np.zeros(3) if colour is None else colour
        radius = max(int(softness * self.unit / 2.5), 1)
        points = np.concatenate(outlines) * self.unit
        ends = np.cumsum([len(outline) for outline in outlines])
        window = self._cover(points, ends, bounds(points), pad=3 * radius)
        if window is not None:
            soft = soften(window.cover, radius)
            kernel.tint(self.image, soft, (window.x0, window.y0), colour, strength)

    def defocus(self, amount: float) -> None:
        """Blur everything painted so far, as a lens does behind the subject (scene units)."""
        radius = round(amount * self.unit)
        if radius >= 1:
            for c in range(3):
                # Padded, because the filter takes what lies beyond the border as black.
                edge = 3 * radius
                padded = np.pad(self.image[:, :, c], edge, mode="edge")
                inner = soften(padded, radius)[edge:-edge, edge:-edge]
                self.image[:, :, c] = inner

    def _paint(
        self, part: Part, frame: Frame, parent: int, within: _Window | None, horizon: float | None
    ) -> None:
        number = len(self.nodes)
        node = Node(
            parent=parent, mask=bool(self.rng.random() < part.mask), thin=part.thin, painted=0.0
        )
        self.nodes.append(node)
        for child in part.back:
            self._paint(child, frame, number, within, horizon)
        window = within
        if part.outline is not None and part.material is not None:
            outlines = part.outline if isinstance(part.outline, Sequence) else [part.outline]
            scene = [frame.to_scene(outline) for outline in outlines]
            points = np.concatenate(scene) * self.unit
            extent = bounds(points)
            smaller_side = min(extent[2] - extent[0], extent[3] - extent[1])
            radius = int(min(part.rounding * smaller_side * 0.4, 0.25 * self.unit))
            reach = int(min(0.1 * smaller_side + 1, 0.016 * self.unit + 1)) if part.shadow else 0
            ends = np.cumsum([len(outline) for outline in scene])
            window = self._cover(points, ends, extent, pad=3 * reach + 1, beyond=3 * radius)
            if window is None:
                return
            if part.clip and within is not None:
                window = _clipped(window, within)
            parameters = self._parameters(part, frame, extent, horizon)
            parameters[kernel.NODE] = number
            parameters[kernel.WINDOW_X], parameters[kernel.WINDOW_Y] = window.x0, window.y0
            normal, cell, margin = normals(window.cover, radius)
            parameters[kernel.CELL], parameters[kernel.MARGIN] = cell, margin
            parameters[kernel.SHADOW_X] = -self.light[0] * reach
            parameters[kernel.SHADOW_Y] = -self.light[1] * reach
            kernel.paint(
                self.image,
                self.owner,
                window.cover,
                normal,
                soften(window.cover, reach),
                parameters,
                noise_tiles(),
                self.light,
            )
            node.painted = float(window.cover.sum())
        for child in part.front:
            self._paint(child, frame, number, window, horizon)

    def _cover(
        self,
        points: Outline,
        ends: npt.NDArray[np.int64],
        extent: npt.NDArray[np.float64],
        *,
        pad: int,
        beyond: int = 0,
    ) -> _Window | None:
        """Rasterise polygons given in pixels; None when they lie outside the picture."""
        low_x, low_y = floor(extent[0]) - pad, floor(extent[1]) - pad
        high_x, high_y = ceil(extent[2]) + pad, ceil(extent[3]) + pad
        if min(high_x, high_y) <= pad or low_x >= self.width - pad or low_y >= self.height - pad:
            return None
        # Also `beyond` the picture: a part cut off by its border must not be rounded there.
        margin = max(pad, beyond)
        x0, y0 = max(low_x, -margin), max(low_y, -margin)
        x1, y1 = min(high_x, self.width + margin), min(high_y, self.height + margin)
        return _Window(coverage(points - (x0, y0), ends, y1 - y0, x1 - x0), x0, y0)

    def _parameters(
        self,
        part: Part,
        frame: Frame,
        extent: npt.NDArray[np.float64],
        horizon: float | None,
    ) -> npt.NDArray[np.float64]:
        """Return the vector that `paint.paint` takes, lengths in pixels."""
        material: Material = part.material  # type: ignore[assignment]
        unit = self.unit
        p = np.empty(kernel.PARAMETERS)
        p[kernel.BASE : kernel.BASE + 3] = material.base
        p[kernel.OTHER : kernel.OTHER + 3] = material.other
        p[kernel.PATTERN] = material.pattern
        p[kernel.FREQUENCY] = material.frequency / frame.scale
        turn = material.angle + frame.angle
        p[kernel.COSINE], p[kernel.SINE] = np.cos(turn), np.sin(turn)
        p[kernel.ORIGIN_X], p[kernel.ORIGIN_Y] = frame.x * unit, frame.y * unit
        p[kernel.STRENGTH] = material.strength
        p[kernel.ROUGHNESS] = material.roughness
        p[kernel.NOISE_SCALE] = material.noise_scale
        p[kernel.NOISE_U], p[kernel.NOISE_V] = self.rng.uniform(0.0, TILE, 2)
        p[kernel.BEVEL] = material.bevel
        p[kernel.GLOSS] = material.gloss
        p[kernel.FADE_TOP] = extent[1]
        p[kernel.FADE_HEIGHT] = max(extent[3] - extent[1], 1.0)
        p[kernel.SHADOW] = part.shadow
        p[kernel.HORIZON] = -1e9 if horizon is None else horizon * unit
        p[kernel.UNIT] = unit
        return p


def _clipped(window: _Window, within: _Window) -> _Window:
    """Return `window` with its coverage multiplied by that of `within`."""
    cover = np.zeros_like(window.cover)
    x0, y0 = max(window.x0, within.x0), max(window.y0, within.y0)
    x1 = min(window.x0 + cover.shape[1], within.x0 + within.cover.shape[1])
    y1 = min(window.y0 + cover.shape[0], within.y0 + within.cover.shape[0])
    if x1 > x0 and y1 > y0:
        here = np.s_[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0]
        there = np.s_[y0 - within.y0 : y1 - within.y0, x0 - within.x0 : x1 - within.x0]
        cover[here] = window.cover[here] * within.cover[there]
    return _Window(cover, window.x0, window.y0)
