"""Things that hang on walls or lie about, drawn in the unit circle."""

from __future__ import annotations

import numpy as np

from data_tools.scenes import colours as c
from data_tools.scenes import geometry as g
from data_tools.scenes.paint import BLADES, CHECKS, CLOUDS, DOTS, STRIPES, WOOD
from data_tools.scenes.parts import Material, Part, fade, plain, textured
from data_tools.scenes.stage import Stage


def clock(stage: Stage) -> Part:
    """Draw rim, dial and hands."""
    rng = stage.rng
    rim = stage.colour(c.ANY)
    dial = stage.colour(c.WHITE if rng.random() < 0.7 else c.PASTEL, rim)
    hands = rng.uniform(0.0, 2 * np.pi, 2)
    ink = plain(stage.colour(c.DARK, dial))
    face = Part(
        outline=g.ellipse(0, 0, 0.8), material=plain(dial, rough=0.01), rounding=0.1, mask=0.3
    )
    ticks = []
    for k in range(12):
        a = k * np.pi / 6
        ticks.append(g.stroke(np.outer((0.62, 0.72), (np.cos(a), np.sin(a))), 0.05))
    face.front.append(Part(outline=ticks, material=ink, mask=0.0, shadow=0.0))
    for length, width, a in ((0.42, 0.11, hands[0]), (0.62, 0.08, hands[1])):
        tip = length * np.array([np.cos(a), np.sin(a)])
        outline = g.stroke([-0.15 * tip, tip], (width, width * 0.6))
        face.front.append(Part(outline=outline, material=ink, rounding=0.3, mask=0.0))
    return Part(outline=g.ellipse(), material=plain(rim, gloss=0.4), front=[face], rounding=0.25)


def picture(stage: Stage) -> Part:
    """Draw a frame with a mount and a small landscape in it."""
    rng = stage.rng
    wood = stage.colour(c.WOODS if rng.random() < 0.6 else c.ANY)
    h = float(rng.uniform(0.6, 0.95))
    sky = stage.colour(c.PASTEL, wood)
    land = stage.colour(c.GREENS, sky)
    view = Part(outline=g.box(-0.8, 0.2 - h, 0.8, h - 0.2), material=fade(sky, c.lighter(sky, 0.4)))
    view.shadow, view.rounding, view.mask = 0.3, 0.05, 0.35
    x = np.linspace(-0.8, 0.8, 12)
    ridge = 0.15 * np.sin(x * 4 + rng.uniform(0, 6)) + 0.15 * h
    hill = np.concatenate([np.stack([x, ridge], 1), [[0.8, h], [-0.8, h]]])
    view.front.append(
        Part(outline=hill, material=plain(land), clip=True, shadow=0.0, rounding=0.0, mask=0.4)
    )
    if rng.random() < 0.6:
        sun = g.ellipse(float(rng.uniform(-0.4, 0.4)), -0.25 * h, 0.16)
        disc = Part(
            outline=sun, material=plain(stage.colour(c.FRUIT, sky)), clip=True, shadow=0.0, mask=0.5
        )
        view.front.insert(0, disc)
    grain = Material(base=wood, other=c.lighter(wood, 0.25), pattern=BLADES, gloss=0.2)
    return Part(outline=g.box(-1, -h, 1, h), material=grain, front=[view], rounding=0.12)


def ball(stage: Stage) -> Part:
    """Draw a beach ball, football or marble."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    body = Part(outline=g.ellipse(), material=plain(colour, gloss=0.6, bevel=0.9), rounding=0.95)
    kind = rng.random()
    if kind < 0.4:
        panel = plain(stage.colour(c.WHITE, colour), gloss=0.5)
        for k in (-1, 1):
            half = np.concatenate(
                [
                    g.arc(0, 0, 0.75, 1.0, start=-0.25, stop=0.25),
                    g.arc(0, 0, 0.3, 1.0, start=0.25, stop=-0.25),
                ]
            ) * (k, 1.0)
            body.front.append(
                Part(outline=half, material=panel, clip=True, shadow=0.0, rounding=0.0)
            )
    elif kind < 0.7:
        patch = plain(stage.colour(c.DARK, colour))
        spots = ((0.0, 0.0), *((0.82 * np.cos(a), 0.82 * np.sin(a)) for a in np.arange(5) * 1.2566))
        for x, y in spots:
            outline = g.place(g.star(points=5, inner=0.81), x, y, 0.3)
            body.front.append(
                Part(outline=outline, material=patch, clip=True, shadow=0.0, mask=0.25)
            )
    return body


def plate(stage: Stage) -> Part:
    """Draw a dish with rim and three kinds of food."""
    rng = stage.rng
    china = stage.colour(c.WHITE if rng.random() < 0.6 else c.PASTEL)
    dish = Part(outline=g.ellipse(), material=plain(china, rough=0.01, gloss=0.2), rounding=0.15)
    rim = Part(outline=g.ellipse(0, 0, 0.72), material=plain(c.lighter(china, -0.07)), rounding=0.1)
    rim.mask = 0.3
    start = float(rng.uniform(0, 1))
    for k, hues in enumerate((c.FRUIT, c.GREENS, c.WOODS)):
        a = (start + k / 3) * 2 * np.pi
        outline = g.place(g.blob(rng, wobble=0.15), 0.34 * np.cos(a), 0.34 * np.sin(a), 0.27)
        colour = stage.colour(hues, china)
        food = Material(base=colour, other=c.lighter(colour, -0.3), pattern=CLOUDS, roughness=0.12)
        rim.front.append(Part(outline=outline, material=food, rounding=0.5))
    dish.front.append(rim)
    return dish


def pencil(stage: Stage) -> Part:
    """Draw shaft, wooden cone, lead and rubber."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    shaft = Part(
        outline=g.box(-0.75, -0.13, 0.62, 0.13), material=plain(colour), rounding=0.6, mask=0.4
    )
    cone = np.array([[0.62, -0.13], [0.97, 0.0], [0.62, 0.13]])
    lead = np.array([[0.86, -0.045], [1.0, 0.0], [0.86, 0.045]])
    tip = Part(outline=cone, material=plain(c.Hues((0.09, 0.1), (0.3, 0.4), (0.8, 0.9)).draw(rng)))
    tip.front.append(Part(outline=lead, material=plain(colour), mask=0.0))
    end = Part(
        outline=g.round_box(-0.98, -0.13, -0.75, 0.13, 0.08), material=plain(c.FRUIT.draw(rng))
    )
    return Part(front=[shaft, tip, end], thin=True)


def coin(stage: Stage) -> Part:
    """Draw a coin or a button with two or four holes."""
    rng = stage.rng
    colour = stage.colour(c.METAL if rng.random() < 0.4 else c.VIVID)
    disc = Part(outline=g.ellipse(), material=plain(colour, gloss=0.4), rounding=0.15)
    inner = Part(outline=g.ellipse(0, 0, 0.76), material=plain(c.lighter(colour, 0.22)), mask=0.0)
    inner.rounding = 0.1
    for x, y in ((-0.24, -0.24), (0.24, 0.24), (-0.24, 0.24), (0.24, -0.24))[: rng.choice([2, 4])]:
        hole = Part(outline=g.ellipse(x, y, 0.14), material=plain(c.lighter(colour, -0.75)))
        hole.mask = 0.0
        inner.front.append(hole)
    disc.front.append(inner)
    return disc


def card(stage: Stage) -> Part:
    """Draw a sheet, tile or patch of cloth with a device on it."""
    rng = stage.rng
    colour = stage.colour(c.ANY)
    shape = int(rng.integers(4))
    outline = (
        g.polygon(rng, sides=int(rng.integers(3, 8))),
        g.round_box(-0.95, -0.65, 0.95, 0.65, 0.1),
        g.star(points=int(rng.integers(5, 8)), inner=0.55),
        g.round_box(-0.8, -0.8, 0.8, 0.8, 0.3),
    )[shape]
    body = Part(outline=outline, material=textured(rng, colour), rounding=0.08)
    if rng.random() < 0.6:
        x, y = rng.uniform(-0.35, 0.35, 2)
        device = (g.ellipse(), g.star(points=5, inner=0.45), g.blob(rng))[int(rng.integers(3))]
        outline = g.place(device, float(x), float(y), float(rng.uniform(0.24, 0.4)))
        ink = plain(stage.colour(c.ANY, colour))
        body.front.append(Part(outline=outline, material=ink, clip=True, rounding=0.1, shadow=0.1))
    return body


def cushion(stage: Stage) -> Part:
    """Draw a soft square with a pattern and a button."""
    rng = stage.rng
    colour = stage.colour(c.ANY)
    pattern = int(rng.choice([STRIPES, CHECKS, DOTS, CLOUDS]))
    cloth = Material(
        base=colour, other=c.lighter(colour, 0.4), pattern=pattern, frequency=3.0, roughness=0.08
    )
    t = np.linspace(0.0, 2 * np.pi, 60, endpoint=False)
    # A superellipse that bulges at its corners, as a stuffed square does.
    r = 0.92 / (np.abs(np.cos(t)) ** 3.2 + np.abs(np.sin(t)) ** 3.2) ** (1 / 3.2)
    outline = np.stack([r * np.cos(t), 0.85 * r * np.sin(t)], 1)
    body = Part(outline=outline, material=cloth, rounding=0.7)
    if rng.random() < 0.4:
        button = plain(stage.colour(c.ANY, colour), gloss=0.3)
        body.front.append(
            Part(outline=g.ellipse(0, 0, 0.14), material=button, rounding=0.6, mask=0.3)
        )
    return body


def board(stage: Stage) -> Part:
    """Draw a wooden board with a handle and a hole."""
    wood = stage.colour(c.WOODS)
    outline = [g.round_box(-0.95, -0.6, 0.55, 0.6, 0.15), g.round_box(0.45, -0.16, 1.0, 0.16, 0.12)]
    grain = Material(base=wood, other=c.lighter(wood, 0.3), pattern=WOOD, frequency=5.0)
    return Part(outline=outline, material=grain, rounding=0.08)
