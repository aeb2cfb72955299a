"""Settings in a room: a table before a wall, and a desk from above."""

from __future__ import annotations

from data_tools.scenes import colours as c
from data_tools.scenes import flat, household, nature
from data_tools.scenes import geometry as g
from data_tools.scenes.backdrop import Family, Setting, Slot, below, everywhere
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.geometry import Rng
from data_tools.scenes.paint import (
    BRICKS,
    CHECKS,
    CLOUDS,
    DOTS,
    MARBLE,
    PLAIN,
    SPECKLES,
    STRIPES,
    WOOD,
)
from data_tools.scenes.parts import Material


def _wallpaper(rng: Rng) -> Material:
    """Draw plaster, stripes, dots or painted brick."""
    paper = (c.PASTEL if rng.random() < 0.6 else c.ANY).draw(rng)
    return Material(
        base=paper,
        other=c.lighter(paper, float(rng.choice([-0.14, 0.16]))),
        pattern=int(rng.choice([PLAIN, PLAIN, CLOUDS, STRIPES, DOTS, BRICKS])),
        frequency=float(rng.uniform(5, 12)),
        roughness=0.025,
        bevel=0.0,
    )


def table(canvas: Canvas, rng: Rng) -> Setting:
    """Draw a table before a wall."""
    low, wide = canvas.bottom, canvas.right
    edge = float(rng.uniform(0.45, 0.68)) * low
    wall = _wallpaper(rng)
    everywhere(canvas, wall, mask=0.3)
    span = (0.08, wide - 0.08)
    hung: list[Family] = [flat.picture, flat.picture, flat.clock]
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
    top = c.pick(rng, c.WOODS if rng.random() < 0.6 else c.ANY, [wall.base])
    cloth = Material(
        base=top,
        other=c.lighter(top, float(rng.choice([-0.2, 0.2]))),
        pattern=int(rng.choice([WOOD, WOOD, WOOD, PLAIN, CHECKS, MARBLE])),
        frequency=float(rng.uniform(4, 7)),
        roughness=0.05,
        bevel=0.0,
    )
    below(canvas, edge, cloth, mask=0.7)
    crease = g.box(-0.05, edge - 0.03, wide + 0.05, edge + 0.015)
    canvas.veil([crease], softness=0.05, strength=0.35)
    canvas.defocus(float(rng.uniform(0.0, 0.008)))
    things: list[Family] = [
        household.mug, household.bottle, household.vase, household.books, household.lamp,
        household.parcel, household.fruit, household.fruit_bowl, flat.ball, household.candle,
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
    """Draw things lying on a surface, seen from above."""
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
    everywhere(canvas, surface)
    things: list[Family] = [
        nature.leaf, flat.coin, flat.plate, flat.pencil, nature.pebble,
        nature.starfish, nature.butterfly, flat.clock, flat.cushion, household.fruit,
        flat.board, flat.ball, flat.card, flat.card,
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
