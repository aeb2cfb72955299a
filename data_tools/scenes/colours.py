"""Colours that go together, and colours that can be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.scenes.geometry import Rng

Colour = npt.NDArray[np.float64]
"""[3] RGB in [0, 1]."""

CLEARLY_APART = 0.24
"""`distance` from which two flat areas read as two things at a glance."""

# Rows: lightness, red-green, yellow-blue. Chroma counts less than lightness, as in any
# colour-difference formula for small patches.
_OPPONENT = np.array([[0.30, 0.55, 0.15], [0.45, -0.45, 0.0], [0.22, 0.22, -0.44]])


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """HSV in [0, 1] (hue wraps) to RGB."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6.0) % 6.0
    return value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)


def distance(a: Colour, b: Colour) -> float:
    """How different two colours look; black to white is 1."""
    return float(np.sqrt(((_OPPONENT @ (a - b)) ** 2).sum()))


def lighter(colour: Colour, amount: float) -> Colour:
    """Towards white (amount > 0) or black (amount < 0)."""
    target = 1.0 if amount > 0 else 0.0
    return colour + (target - colour) * abs(amount)


@dataclass(frozen=True, slots=True)
class Hues:
    """A family of colours: ranges of hue (may exceed 1), saturation and value."""

    hue: tuple[float, float]
    saturation: tuple[float, float] = (0.35, 0.85)
    value: tuple[float, float] = (0.35, 0.9)

    def draw(self, rng: Rng) -> Colour:
        """One colour of the family."""
        h, s, v = rng.uniform(
            (self.hue[0], self.saturation[0], self.value[0]),
            (self.hue[1], self.saturation[1], self.value[1]),
        )
        return hsv(float(h), float(s), float(v))


ANY = Hues((0.0, 1.0), (0.25, 0.9), (0.25, 0.95))
VIVID = Hues((0.0, 1.0), (0.6, 0.92), (0.55, 0.92))
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
    """A colour of `hues` at least `gap` from all of `away_from`, or the farthest of ten tries.

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
