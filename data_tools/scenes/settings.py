"""Settings: each paints a backdrop and says where which things may stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data_tools.scenes import colours as c
from data_tools.scenes import geometry as g
from data_tools.scenes import household, nature, town
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.geometry import Rng
from data_tools.scenes.paint import (
    BLADES,
    BRICKS,
    CHECKS,
    CLOUDS,
    DOTS,
    FADE,
    MARBLE,
    PLAIN,
    SPECKLES,
    STRIPES,
    WOOD,
)
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


def _everywhere(canvas: Canvas, material: Material, *, mask: float = 0.0) -> None:
    outline = g.box(-0.02, -0.02, canvas.right + 0.02, canvas.bottom + 0.02)
    canvas.backdrop(Part(outline=outline, material=material, rounding=0.0, shadow=0.0, mask=mask))


def _below(
    canvas: Canvas, y: float, material: Material, *, mask: float, recede: bool = True
) -> None:
    outline = g.box(-0.02, y, canvas.right + 0.02, canvas.bottom + 0.02)
    part = Part(outline=outline, material=material, rounding=0.0, shadow=0.0, mask=mask)
    canvas.backdrop(part, horizon=y - 0.06 if recede else None)


def _ridge(canvas: Canvas, rng: Rng, y: float, height: float, material: Material) -> None:
    """A range of hills: everything below a wavy line."""
    x = np.linspace(-0.05, canvas.right + 0.05, 40)
    line = np.full_like(x, y)
    for octave in range(4):
        wave = 2.2 * 2.0**octave
        line -= height / 1.7**octave * np.sin(wave * x + rng.uniform(0, 6.28)) * 0.5
    low = canvas.bottom + 0.02
    outline = np.concatenate([np.stack([x, line], 1), [[x[-1], low], [x[0], low]]])
    canvas.backdrop(Part(outline=outline, material=material, rounding=0.0, shadow=0.0, mask=0.5))


def _sky(canvas: Canvas, rng: Rng, horizon: float) -> c.Colour:
    """Sky over the whole picture; returns its colour near the horizon."""
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


def _ground(rng: Rng, kind: int) -> Material:
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


def meadow(canvas: Canvas, rng: Rng) -> Setting:
    """Open country under a sky."""
    horizon = float(rng.uniform(0.3, 0.5)) * canvas.bottom
    haze = _sky(canvas, rng, horizon)
    land = c.Hues((0.22, 0.6), (0.2, 0.5), (0.3, 0.6)).draw(rng)
    for k in range(int(rng.integers(1, 4))):
        colour = c.lighter(land + (haze - land) * (0.65 - 0.25 * k), 0.0)
        slope = Material(base=c.lighter(colour, -0.1), other=colour, pattern=CLOUDS, roughness=0.05)
        slope.bevel = 0.0
        _ridge(canvas, rng, horizon - 0.1 + 0.05 * k, 0.09 - 0.02 * k, slope)
    canvas.defocus(float(rng.uniform(0.0, 0.006)))
    _below(canvas, horizon, _ground(rng, int(rng.choice([0, 0, 0, 1, 2, 3]))), mask=0.6)
    wide, low = canvas.right, canvas.bottom
    air: list[Family] = [nature.cloud, town.hot_air_balloon, nature.bird, nature.cloud]
    far: list[Family] = [nature.tree, nature.conifer, town.house, nature.tree]
    near: list[Family] = [
        nature.bush, nature.rock, nature.flower, nature.mushroom, nature.cactus, town.fence,
        household.ball, nature.bird, nature.tree, town.person,
    ]  # fmt: skip
    span = (0.05, wide - 0.05)
    slots = [
        Slot(
            families=air,
            x=span,
            y=(0.08, horizon * 0.6),
            size=(0.09, 0.15),
            standing=False,
            shadow=0,
        )
        for _ in range(int(rng.integers(0, 3)))
    ]
    slots += [
        Slot(families=far, x=span, y=(horizon + 0.06, horizon + 0.22), size=(0.16, 0.24), near=1.3)
        for _ in range(int(rng.integers(2, 4)))
    ]
    slots += [
        Slot(families=near, x=span, y=(horizon + 0.28, low - 0.02), size=(0.13, 0.18), near=1.5)
        for _ in range(int(rng.integers(2, 4)))
    ]
    return Setting(slots=slots)


def street(canvas: Canvas, rng: Rng) -> Setting:
    """Buildings behind a road with traffic."""
    low, wide = canvas.bottom, canvas.right
    kerb = float(rng.uniform(0.6, 0.72)) * low
    _sky(canvas, rng, kerb)
    grey = c.Hues((0.55, 0.65), (0.02, 0.1), (0.3, 0.5)).draw(rng)
    asphalt = Material(base=c.lighter(grey, -0.1), other=c.lighter(grey, 0.1), roughness=0.1)
    asphalt.bevel = 0.0
    stone = c.lighter(grey, 0.45)
    slabs = Material(
        base=stone, other=c.lighter(stone, -0.3), pattern=BRICKS, frequency=3.0, roughness=0.04
    )
    slabs.bevel = 0.0
    pavement = kerb - float(rng.uniform(0.08, 0.14))
    _below(canvas, pavement, slabs, mask=0.0)
    _below(canvas, kerb, asphalt, mask=0.7)
    line = c.WHITE.draw(rng)
    y = kerb + (low - kerb) * 0.55
    for x in np.arange(-0.1, wide, 0.34):
        mark = g.box(x + 0.05, y, x + 0.22, y + 0.025)
        paint = Material(base=line, other=line, roughness=0.1, bevel=0.0)
        canvas.backdrop(Part(outline=mark, material=paint, shadow=0, rounding=0, mask=0.0))
    span = (0.0, wide)
    tall = (min(0.26, kerb * 0.45), min(0.36, kerb * 0.5))
    slots = [
        Slot(
            families=(town.tower, town.tower, town.house),
            x=span,
            y=(pavement, pavement + 0.02),
            size=tall,
            tilt=0.0,
            shadow=0.0,
        )
        for _ in range(int(rng.integers(2, 5)))
    ]
    walk: list[Family] = [
        town.lamp_post, town.sign, town.traffic_light, nature.tree, town.person, town.person,
    ]  # fmt: skip
    slots += [
        Slot(families=walk, x=span, y=(kerb - 0.05, kerb - 0.01), size=(0.16, 0.23), tilt=0.0)
        for _ in range(int(rng.integers(1, 4)))
    ]
    traffic: list[Family] = [town.car, town.car, town.bus]
    slots += [
        Slot(
            families=traffic,
            x=span,
            y=(kerb + 0.07, low - 0.03),
            size=(0.18, 0.23),
            near=1.25,
            tilt=0.0,
            shadow=0.6,
        )
        for _ in range(int(rng.integers(1, 4)))
    ]
    return Setting(slots=slots)


def table(canvas: Canvas, rng: Rng) -> Setting:
    """A table before a wall."""
    low, wide = canvas.bottom, canvas.right
    edge = float(rng.uniform(0.45, 0.68)) * low
    paper = (c.PASTEL if rng.random() < 0.6 else c.ANY).draw(rng)
    pattern = int(rng.choice([PLAIN, PLAIN, CLOUDS, STRIPES, DOTS, BRICKS]))
    wall = Material(
        base=paper,
        other=c.lighter(paper, float(rng.choice([-0.14, 0.16]))),
        pattern=pattern,
        frequency=float(rng.uniform(5, 12)),
        roughness=0.025,
        bevel=0.0,
    )
    _everywhere(canvas, wall, mask=0.3)
    span = (0.08, wide - 0.08)
    hung: list[Family] = [household.picture, household.picture, household.clock]
    slots = [
        Slot(
            families=hung,
            x=span,
            y=(0.16, max(edge - 0.25, 0.17)),
            size=(0.11, 0.18),
            standing=False,
            tilt=0.015,
            shadow=0.3,
        )
        for _ in range(int(rng.integers(0, 3)))
    ]
    top = c.pick(rng, c.WOODS if rng.random() < 0.6 else c.ANY, [paper])
    cloth = Material(
        base=top,
        other=c.lighter(top, float(rng.choice([-0.2, 0.2]))),
        pattern=int(rng.choice([WOOD, WOOD, WOOD, PLAIN, CHECKS, MARBLE])),
        frequency=float(rng.uniform(4, 7)),
        roughness=0.05,
        bevel=0.0,
    )
    _below(canvas, edge, cloth, mask=0.7)
    crease = g.box(-0.05, edge - 0.03, wide + 0.05, edge + 0.015)
    canvas.veil([crease], softness=0.05, strength=0.35)
    canvas.defocus(float(rng.uniform(0.0, 0.008)))
    things: list[Family] = [
        household.mug, household.bottle, household.vase, household.books, household.lamp,
        household.parcel, household.fruit, household.fruit_bowl, household.ball, household.candle,
        household.teddy, household.bottle, household.fruit,
    ]  # fmt: skip
    count = int(rng.integers(3, 6))
    slots += [
        Slot(
            families=things,
            x=span,
            y=(
                edge + 0.05 + 0.8 * (low - edge - 0.08) * k / count,
                edge + 0.09 + 0.9 * (low - edge - 0.08) * (k + 1) / count,
            ),
            size=(0.15, 0.22),
            near=1.2,
        )
        for k in range(count)
    ]
    return Setting(slots=slots)


def desk(canvas: Canvas, rng: Rng) -> Setting:
    """Things lying on a surface, seen from above."""
    kind = int(rng.integers(6))
    hues = (
        c.WOODS,
        c.ANY,
        c.STONE,
        c.PASTEL,
        c.DARK,
        c.Hues((0.08, 0.13), (0.2, 0.45), (0.6, 0.9)),
    )
    colour = hues[kind].draw(rng)
    surface = Material(
        base=colour,
        other=c.lighter(colour, float(rng.uniform(0.1, 0.25))),
        pattern=(WOOD, CHECKS, MARBLE, PLAIN, CLOUDS, SPECKLES)[kind],
        frequency=(6.0, 7.0, 3.0, 5.0, 4.0, 6.0)[kind],
        angle=float(rng.uniform(0, 3)),
        roughness=float(rng.uniform(0.03, 0.09)),
        bevel=0.0,
    )
    _everywhere(canvas, surface)
    things: list[Family] = [
        nature.leaf, household.coin, household.plate, household.pencil, nature.pebble, household.card,
        nature.starfish, nature.butterfly, household.clock, household.cushion, household.fruit,
        household.board, household.ball, household.card, nature.leaf,
    ]  # fmt: skip
    chosen = [things[i] for i in rng.integers(0, len(things), 4)]
    slots = [
        Slot(
            families=chosen if rng.random() < 0.5 else things,
            x=(0.05, canvas.right - 0.05),
            y=(0.05, canvas.bottom - 0.05),
            size=(0.12, 0.25),
            standing=False,
            tilt=9.0,
            shadow=0.45,
        )
        for _ in range(int(rng.integers(5, 8)))
    ]
    return Setting(slots=slots)


def sea(canvas: Canvas, rng: Rng) -> Setting:
    """Under water: fish over a sandy bed."""
    low, wide = canvas.bottom, canvas.right
    bed = float(rng.uniform(0.7, 0.85)) * low
    deep = c.Hues((0.48, 0.6), (0.5, 0.85), (0.25, 0.6)).draw(rng)
    water = Material(base=c.lighter(deep, 0.35), other=c.lighter(deep, -0.35), pattern=FADE)
    water.roughness, water.bevel = 0.02, 0.0
    _everywhere(canvas, water)
    for x in rng.uniform(0, wide, 3):
        beam = np.array([[x, -0.02], [x + 0.1, -0.02], [x - 0.12, low], [x - 0.32, low]])
        light = c.lighter(deep, 0.3)
        canvas.veil([beam], colour=light, softness=0.05, strength=0.35)
    _ridge(canvas, rng, bed, 0.03, _ground(rng, 1))
    span = (0.06, wide - 0.06)
    bottom: list[Family] = [
        nature.coral,
        nature.seaweed,
        nature.rock,
        nature.starfish,
        nature.coral,
    ]
    slots = [
        Slot(families=bottom, x=span, y=(bed + 0.02, low - 0.02), size=(0.13, 0.19), tilt=0.1)
        for _ in range(int(rng.integers(3, 5)))
    ]
    slots += [
        Slot(
            families=(nature.fish,),
            x=span,
            y=(0.1, bed - 0.1),
            size=(0.13, 0.23),
            standing=False,
            tilt=0.15,
            shadow=0.0,
        )
        for _ in range(int(rng.integers(3, 6)))
    ]
    return Setting(slots=slots)


def lake(canvas: Canvas, rng: Rng) -> Setting:
    """Boats on open water before a shore."""
    low, wide = canvas.bottom, canvas.right
    horizon = float(rng.uniform(0.35, 0.5)) * low
    haze = _sky(canvas, rng, horizon)
    shore = c.Hues((0.2, 0.6), (0.15, 0.45), (0.25, 0.5)).draw(rng)
    slope = Material(base=shore, other=c.lighter(shore, 0.2), pattern=CLOUDS, roughness=0.08)
    slope.bevel = 0.0
    _ridge(canvas, rng, horizon - 0.06, 0.06, slope)
    deep = c.Hues((0.48, 0.62), (0.35, 0.75), (0.3, 0.65)).draw(rng)
    waves = Material(base=deep, other=deep + (haze - deep) * 0.45, pattern=CLOUDS, roughness=0.05)
    waves.noise_scale, waves.bevel = 2.5, 0.0
    _below(canvas, horizon, waves, mask=0.7)
    span = (0.08, wide - 0.08)
    air: list[Family] = [nature.cloud, nature.bird, town.hot_air_balloon]
    slots = [
        Slot(
            families=air,
            x=span,
            y=(0.08, horizon * 0.6),
            size=(0.09, 0.15),
            standing=False,
            shadow=0,
        )
        for _ in range(int(rng.integers(1, 3)))
    ]
    afloat: list[Family] = [town.boat, town.boat, town.boat, nature.rock, household.ball]
    slots += [
        Slot(
            families=afloat,
            x=span,
            y=(horizon + 0.08, low - 0.06),
            size=(0.13, 0.18),
            near=1.5,
            shadow=0.5,
            tilt=0.04,
        )
        for _ in range(int(rng.integers(3, 6)))
    ]
    return Setting(slots=slots)


SETTINGS: tuple[tuple[Callable[[Canvas, Rng], Setting], float], ...] = (
    (meadow, 0.24), (street, 0.18), (table, 0.25), (desk, 0.19), (sea, 0.08), (lake, 0.06),
)  # fmt: skip
"""Each setting with its share of the scenes."""
