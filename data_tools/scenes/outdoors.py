"""Settings under the sky and in the water."""

from __future__ import annotations

import numpy as np

from data_tools.scenes import colours as c
from data_tools.scenes import flat, nature, town
from data_tools.scenes import geometry as g
from data_tools.scenes.backdrop import Family, Setting, Slot, below, everywhere, ground, ridge, sky
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.geometry import Rng
from data_tools.scenes.paint import (
    BRICKS,
    CLOUDS,
    FADE,
)
from data_tools.scenes.parts import Material, Part


def meadow(canvas: Canvas, rng: Rng) -> Setting:
    """Open country under a sky."""
    horizon = float(rng.uniform(0.3, 0.5)) * canvas.bottom
    haze = sky(canvas, rng, horizon)
    land = c.Hues((0.22, 0.6), (0.2, 0.5), (0.3, 0.6)).draw(rng)
    for k in range(int(rng.integers(1, 4))):
        colour = c.lighter(land + (haze - land) * (0.65 - 0.25 * k), 0.0)
        slope = Material(base=c.lighter(colour, -0.1), other=colour, pattern=CLOUDS, roughness=0.05)
        slope.bevel = 0.0
        ridge(canvas, rng, horizon - 0.1 + 0.05 * k, 0.09 - 0.02 * k, slope)
    canvas.defocus(float(rng.uniform(0.0, 0.006)))
    below(canvas, horizon, ground(rng, int(rng.choice([0, 0, 0, 1, 2, 3]))), mask=0.6)
    wide, low = canvas.right, canvas.bottom
    air: list[Family] = [nature.cloud, town.hot_air_balloon, nature.bird, nature.cloud]
    far: list[Family] = [nature.tree, nature.conifer, town.house, nature.tree]
    near: list[Family] = [
        nature.bush, nature.rock, nature.flower, nature.mushroom, nature.cactus, town.fence,
        flat.ball, nature.bird, nature.tree, town.person,
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
    """Draw buildings behind a road with traffic."""
    low, wide = canvas.bottom, canvas.right
    kerb = float(rng.uniform(0.6, 0.72)) * low
    sky(canvas, rng, kerb)
    grey = c.Hues((0.55, 0.65), (0.02, 0.1), (0.3, 0.5)).draw(rng)
    asphalt = Material(base=c.lighter(grey, -0.1), other=c.lighter(grey, 0.1), roughness=0.1)
    asphalt.bevel = 0.0
    stone = c.lighter(grey, 0.45)
    slabs = Material(
        base=stone, other=c.lighter(stone, -0.3), pattern=BRICKS, frequency=3.0, roughness=0.04
    )
    slabs.bevel = 0.0
    pavement = kerb - float(rng.uniform(0.08, 0.14))
    below(canvas, pavement, slabs, mask=0.0)
    below(canvas, kerb, asphalt, mask=0.7)
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


def sea(canvas: Canvas, rng: Rng) -> Setting:
    """Draw fish over a sandy bed, under water."""
    low, wide = canvas.bottom, canvas.right
    bed = float(rng.uniform(0.7, 0.85)) * low
    deep = c.Hues((0.48, 0.6), (0.5, 0.85), (0.25, 0.6)).draw(rng)
    water = Material(base=c.lighter(deep, 0.35), other=c.lighter(deep, -0.35), pattern=FADE)
    water.roughness, water.bevel = 0.02, 0.0
    everywhere(canvas, water)
    for x in rng.uniform(0, wide, 3):
        beam = np.array([[x, -0.02], [x + 0.1, -0.02], [x - 0.12, low], [x - 0.32, low]])
        light = c.lighter(deep, 0.3)
        canvas.veil([beam], colour=light, softness=0.05, strength=0.35)
    ridge(canvas, rng, bed, 0.03, ground(rng, 1))
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
    """Draw boats on open water before a shore."""
    low, wide = canvas.bottom, canvas.right
    horizon = float(rng.uniform(0.35, 0.5)) * low
    haze = sky(canvas, rng, horizon)
    shore = c.Hues((0.2, 0.6), (0.15, 0.45), (0.25, 0.5)).draw(rng)
    slope = Material(base=shore, other=c.lighter(shore, 0.2), pattern=CLOUDS, roughness=0.08)
    slope.bevel = 0.0
    ridge(canvas, rng, horizon - 0.06, 0.06, slope)
    deep = c.Hues((0.48, 0.62), (0.35, 0.75), (0.3, 0.65)).draw(rng)
    waves = Material(base=deep, other=deep + (haze - deep) * 0.25, pattern=CLOUDS, roughness=0.05)
    waves.noise_scale, waves.bevel = 2.5, 0.0
    below(canvas, horizon, waves, mask=0.7)
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
    afloat: list[Family] = [town.boat, town.boat, town.boat, nature.rock]
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
