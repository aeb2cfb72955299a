"""Families of things: each draws one in the unit circle, or standing on y = 1."""

from __future__ import annotations

from data_tools.scenes import colours as c
from data_tools.scenes import geometry as g
from data_tools.scenes.parts import Part, plain, textured
from data_tools.scenes.stage import Stage


def pebble(stage: Stage) -> Part:
    """A smooth irregular body."""
    outline = g.blob(stage.rng, wobble=float(stage.rng.uniform(0.08, 0.28)))
    return Part(outline=outline, material=textured(stage.rng, stage.colour(c.ANY)), rounding=0.6)


def card(stage: Stage) -> Part:
    """A flat polygon with something on it."""
    rng = stage.rng
    colour = stage.colour(c.ANY)
    body = Part(
        outline=g.polygon(rng, sides=int(rng.integers(3, 8))),
        material=textured(rng, colour),
        rounding=0.08,
    )
    if rng.random() < 0.5:
        inner = stage.colour(c.ANY, colour)
        x, y = rng.uniform(-0.35, 0.35, 2)
        size = float(rng.uniform(0.25, 0.4))
        body.front.append(
            Part(outline=g.ellipse(x, y, size), material=plain(inner), clip=True, rounding=0.2)
        )
    return body


def mug(stage: Stage) -> Part:
    """Body with band, handle behind, dark opening."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    handle = Part(
        outline=g.stroke(g.arc(0.62, 0.15, 0.34, 0.42, start=-0.25, stop=0.25), 0.16),
        material=plain(colour, gloss=0.4),
        rounding=0.5,
    )
    body = Part(
        outline=g.round_box(-0.7, -0.75, 0.62, 1.0, 0.22),
        material=textured(rng, colour, gloss=0.4),
        rounding=0.5,
        mask=False,
    )
    rim = Part(outline=g.ellipse(-0.04, -0.75, 0.66, 0.2), material=plain(c.lighter(colour, 0.4)))
    drink = stage.colour(c.WOODS, c.lighter(colour, 0.4))
    rim.front.append(Part(outline=g.ellipse(-0.04, -0.73, 0.54, 0.14), material=plain(drink)))
    return Part(front=[handle, body, rim])


def house(stage: Stage) -> Part:
    """Walls with door and windows under a roof."""
    rng = stage.rng
    wall = stage.colour(c.PASTEL if rng.random() < 0.5 else c.BRICK)
    roof = stage.colour(c.BRICK if rng.random() < 0.5 else c.DARK, wall)
    glass = stage.colour(c.GLASS, wall)
    body = Part(
        outline=g.box(-0.8, -0.2, 0.8, 1.0),
        material=plain(wall, rough=0.1),
        rounding=0.05,
        mask=False,
    )
    for x in (-0.5, 0.42):
        body.front.append(
            Part(outline=g.box(x - 0.2, 0.1, x + 0.2, 0.5), material=plain(glass), rounding=0.1)
        )
    body.front.append(
        Part(
            outline=g.box(-0.15, 0.4, 0.15, 1.0),
            material=plain(stage.colour(c.WOODS, wall)),
            rounding=0.1,
        )
    )
    top = Part(
        outline=g.polygon(rng, sides=3) * 0 + [[0.0, -1.0], [1.0, -0.15], [-1.0, -0.15]],
        material=textured(rng, roof),
        rounding=0.06,
    )
    return Part(front=[body, top])


FAMILIES = (pebble, card, mug, house)
