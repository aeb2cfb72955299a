"""Skies, hills, floors and walls, and the places on them where things may stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.scenes import colours as c
from data_tools.scenes import geometry as g
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.geometry import Rng
from data_tools.scenes.paint import BLADES, CLOUDS, FADE
from data_tools.scenes.parts import Material, Part
from data_tools.scenes.stage import Stage

Family = Callable[[Stage], Part]


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place for one thing."""

    families: Sequence[Family]
    x: tuple[float, float]
    """Range of the centre, scene units."""
    y: tuple[float, float]
    """Range of the foot of standing things, of the centre of others."""
    size: tuple[float, float]
    """Range of half the height, scene units."""
    standing: bool = True
    near: float = 1.0
    """Factor on the size at the lower end of `y`: things grow towards the viewer."""
    tilt: float = 0.03
    """Deviation of the angle in radians; 9 for any direction."""
    shadow: float = 0.4
    """Strength of the shadow cast on the ground."""


@dataclass(slots=True, kw_only=True)
class Setting:
    """A painted backdrop and the slots on it, from back to front."""

    slots: list[Slot]


def everywhere(canvas: Canvas, material: Material, *, mask: float = 0.0) -> None:
    outline = g.box(-0.02, -0.02, canvas.right + 0.02, canvas.bottom + 0.02)
    canvas.backdrop(Part(outline=outline, material=material, rounding=0.0, shadow=0.0, mask=mask))


def below(
    canvas: Canvas, y: float, material: Material, *, mask: float, recede: bool = True
) -> None:
    outline = g.box(-0.02, y, canvas.right + 0.02, canvas.bottom + 0.02)
    part = Part(outline=outline, material=material, rounding=0.0, shadow=0.0, mask=mask)
    canvas.backdrop(part, horizon=y - 0.06 if recede else None)


def ridge(canvas: Canvas, rng: Rng, y: float, height: float, material: Material) -> None:
    """Draw a range of hills: everything below a wavy line."""
    x = np.linspace(-0.05, canvas.right + 0.05, 40)
    line = np.full_like(x, y)
    for octave in range(4):
        wave = 2.2 * 2.0**octave
        line -= height / 1.7**octave * np.sin(wave * x + rng.uniform(0, 6.28)) * 0.5
    low = canvas.bottom + 0.02
    outline = np.concatenate([np.stack([x, line], 1), [[x[-1], low], [x[0], low]]])
    canvas.backdrop(Part(outline=outline, material=material, rounding=0.0, shadow=0.0, mask=0.5))


def sky(canvas: Canvas, rng: Rng, horizon: float) -> c.Colour:
    """Draw sky over the whole picture; returns its colour near the horizon."""
    mood = rng.random()
    if mood < 0.6:
        top = c.Hues((0.54, 0.62), (0.35, 0.7), (0.6, 0.92)).draw(rng)
        low = c.lighter(top, 0.6)
    elif mood < 0.8:
        top = c.Hues((0.6, 0.8), (0.3, 0.6), (0.35, 0.65)).draw(rng)
        low = c.Hues((0.03, 0.12), (0.35, 0.7), (0.85, 0.98)).draw(rng)
    else:
        top = c.Hues((0.5, 0.65), (0.03, 0.15), (0.6, 0.8)).draw(rng)
        low = c.lighter(top, 0.45)
    outline = g.box(-0.02, -0.02, canvas.right + 0.02, horizon + 0.3)
    air = Material(base=top, other=low, pattern=FADE, roughness=0.008, bevel=0.0)
    canvas.backdrop(Part(outline=outline, material=air, rounding=0, shadow=0, mask=0.4))
    if mood < 0.8 and rng.random() < 0.35:
        x, y = rng.uniform((0.1, 0.06), (canvas.right - 0.1, max(horizon * 0.7, 0.1)))
        glow = c.hsv(0.13, 0.25 if mood < 0.6 else 0.6, 1.0)
        disc = g.ellipse(x, y, float(rng.uniform(0.035, 0.07)))
        light = Material(base=glow, other=glow, roughness=0.0, bevel=0.0)
        canvas.backdrop(Part(outline=disc, material=light, shadow=0.0, rounding=0.0))
    return low


def ground(rng: Rng, kind: int) -> Material:
    hues = (
        c.Hues((0.2, 0.33), (0.4, 0.7), (0.35, 0.65)),
        c.Hues((0.09, 0.13), (0.25, 0.5), (0.65, 0.88)),
        c.Hues((0.55, 0.65), (0.02, 0.08), (0.85, 0.97)),
        c.Hues((0.05, 0.1), (0.3, 0.5), (0.3, 0.5)),
    )
    colour = hues[kind].draw(rng)
    return Material(
        base=c.lighter(colour, -0.15),
        other=c.lighter(colour, 0.15),
        pattern=BLADES if kind == 0 else CLOUDS,
        roughness=(0.13, 0.06, 0.02, 0.12)[kind],
        noise_scale=1.2,
        bevel=0.0,
    )
