"""Colours that go together, and colours that can be told apart."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.scenes.geometry import Rng

Colour = npt.NDArray[np.float64]
"""[3] RGB in [0, 1]."""

CLEARLY_APART = 0.24
"""`distance` from which two flat areas read as two things at a glance."""


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Convert HSV in [0, 1] (hue wraps) to RGB."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def distance(a: Colour, b: Colour) -> float:
    """Measure how different two colours look; black to white is 1.

    Lightness, red-green and yellow-blue, chroma counting less than lightness as in any
    colour-difference formula for small patches. Plain floats: it runs a hundred times a scene.
    """
    red, green, blue = (a - b).tolist()
    light = 0.3 * red + 0.55 * green + 0.15 * blue
    chroma = 0.2025 * (red - green) ** 2 + 0.0484 * (red + green - 2 * blue) ** 2
    return math.sqrt(light * light + chroma)


def lighter(colour: Colour, amount: float) -> Colour:
    """Move a colour towards white (amount > 0) or black (amount < 0)."""
    target = 1.0 if amount > 0 else 0.0
    return colour + (target - colour) * abs(amount)


@dataclass(frozen=True, slots=True)
class Hues:
    """A family of colours: ranges of hue (may exceed 1), saturation and value."""

    hue: tuple[float, float]
    saturation: tuple[float, float] = (0.35, 0.85)
    value: tuple[float, float] = (0.35, 0.9)

    def draw(self, rng: Rng) -> Colour:
        """Draw one colour of the family."""
        ranges = zip((self.hue, self.saturation, self.value), rng.random(3).tolist(), strict=True)
        hue, saturation, value = (low + (high - low) * share for (low, high), share in ranges)
        # Greens and magentas of full saturation look like neon; photos hold few.
        if 0.2 < hue % 1.0 < 0.48 or 0.74 < hue % 1.0 < 0.94:
            saturation *= 0.72
        return hsv(hue, saturation, value)


ANY = Hues((0.0, 1.0), (0.2, 0.8), (0.25, 0.92))
VIVID = Hues((0.0, 1.0), (0.5, 0.88), (0.45, 0.9))
PASTEL = Hues((0.0, 1.0), (0.12, 0.38), (0.72, 0.95))
GREYS = Hues((0.05, 0.65), (0.0, 0.12), (0.12, 0.95))
DARK = Hues((0.0, 1.0), (0.1, 0.6), (0.06, 0.25))
WHITE = Hues((0.08, 0.16), (0.0, 0.1), (0.86, 0.98))
WOODS = Hues((0.05, 0.11), (0.35, 0.72), (0.28, 0.72))
GREENS = Hues((0.2, 0.4), (0.35, 0.8), (0.22, 0.62))
AUTUMN = Hues((0.0, 0.15), (0.6, 0.92), (0.45, 0.88))
SKIN = Hues((0.04, 0.1), (0.28, 0.62), (0.38, 0.92))
METAL = Hues((0.55, 0.65), (0.0, 0.14), (0.45, 0.8))
STONE = Hues((0.05, 0.14), (0.05, 0.3), (0.35, 0.75))
BRICK = Hues((0.01, 0.07), (0.4, 0.7), (0.4, 0.7))
GLASS = Hues((0.5, 0.62), (0.2, 0.5), (0.3, 0.75))
FRUIT = Hues((0.92, 1.18), (0.7, 0.95), (0.6, 0.92))


def pick(
    rng: Rng, hues: Hues, away_from: Sequence[Colour] = (), *, gap: float = CLEARLY_APART
) -> Colour:
    """Pick a colour of `hues` at least `gap` from all of `away_from`, or the farthest of ten tries.

    When the family itself is too close (a green tree before green hills), later tries may also
    change its lightness.
    """
    best, best_gap = hues.draw(rng), -1.0
    for attempt in range(10):
        colour = best if attempt == 0 else hues.draw(rng)
        if attempt > 4:
            colour = lighter(colour, float(rng.uniform(-0.6, 0.55)))
        nearest = min((distance(colour, other) for other in away_from), default=1.0)
        if nearest >= gap:
            return colour
        if nearest > best_gap:
            best, best_gap = colour, nearest
    return best
