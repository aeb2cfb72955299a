"""Things that stand on tables: they rest on y = 1."""

from __future__ import annotations

import numpy as np

from data_tools.scenes import colours as c
from data_tools.scenes import geometry as g
from data_tools.scenes.nature import flower
from data_tools.scenes.paint import SPECKLES
from data_tools.scenes.parts import Material, Part, fade, plain, textured
from data_tools.scenes.stage import Stage


def mug(stage: Stage) -> Part:
    """Draw a body with a handle, a rim and a drink."""
    rng = stage.rng
    colour = stage.colour(c.VIVID if rng.random() < 0.6 else c.PASTEL)
    handle = Part(
        outline=g.stroke(g.arc(0.6, 0.15, 0.34, 0.42, start=-0.25, stop=0.25), 0.17),
        material=plain(colour, gloss=0.3),
        rounding=0.3,
    )
    body = Part(
        outline=g.round_box(-0.7, -0.75, 0.62, 1.0, 0.25),
        material=textured(rng, colour, gloss=0.3),
        rounding=0.7,
        mask=0.0,
    )
    rim = Part(outline=g.ellipse(-0.04, -0.75, 0.66, 0.22), material=plain(c.lighter(colour, 0.45)))
    drink = stage.colour(c.WOODS, c.lighter(colour, 0.45))
    rim.front.append(Part(outline=g.ellipse(-0.04, -0.71, 0.55, 0.15), material=plain(drink)))
    return Part(front=[handle, body, rim])


def bottle(stage: Stage) -> Part:
    """Draw glass with liquid gradient, label and cap."""
    rng = stage.rng
    glass = stage.colour(c.Hues((0.05, 0.62), (0.35, 0.8), (0.25, 0.7)))
    half = float(rng.uniform(0.34, 0.5))
    neck = half * float(rng.uniform(0.32, 0.5))
    shoulder = float(rng.uniform(-0.45, -0.15))
    body = Part(
        outline=g.turned(
            [
                (neck, -0.9),
                (neck, shoulder - 0.2),
                (half, shoulder + 0.15),
                (half, 0.6),
                (half, 0.94),
                (half * 0.9, 1.0),
            ]
        ),
        material=fade(c.lighter(glass, 0.2), c.lighter(glass, -0.2), gloss=0.7, bevel=0.9),
        rounding=0.8,
        mask=0.0,
    )
    paper = stage.colour(c.PASTEL if rng.random() < 0.6 else c.VIVID, glass)
    low, high = shoulder + 0.3, 0.8
    label = Part(
        outline=g.box(-1.0, low, 1.0, high),
        material=textured(rng, paper),
        clip=True,
        shadow=0.0,
        mask=0.5,
    )
    if rng.random() < 0.5:
        mark = g.ellipse(0.0, (low + high) / 2, half * 0.5)
        ink = plain(stage.colour(c.VIVID, paper))
        label.front.append(Part(outline=mark, material=ink, clip=True, shadow=0.0, mask=0.4))
    body.front.append(label)
    cap = Part(
        outline=g.round_box(-neck * 1.15, -1.0, neck * 1.15, -0.78, 0.03),
        material=plain(stage.colour(c.ANY, glass), gloss=0.3),
        rounding=0.5,
    )
    return Part(front=[body, cap])


def vase(stage: Stage) -> Part:
    """Draw a glazed vase, mostly with flowers in it."""
    rng = stage.rng
    colour = stage.colour(c.ANY)
    widths = rng.uniform(0.2, 0.52, 4)
    pot = Part(
        outline=g.turned(
            [
                (widths[0], 0.0),
                (widths[0] * 0.75, 0.12),
                (max(widths[1], 0.35), 0.4),
                (widths[2], 0.75),
                (widths[3] * 0.7, 1.0),
            ]
        ),
        material=textured(rng, colour, gloss=0.4),
        rounding=0.8,
    )
    bunch = []
    if rng.random() < 0.8:
        for turn in np.linspace(-0.09, 0.09, int(rng.integers(2, 4))):
            bloom = flower(stage)
            bloom.mask = 0.0
            moved = _moved(bloom, x=float(turn * 3.5), y=-0.25, scale=0.68, turn=float(turn))
            bunch.append(moved)
    return Part(front=[*bunch, pot])


def _moved(part: Part, *, x: float, y: float, scale: float, turn: float = 0.0) -> Part:
    """Move a part to another place in the frame of another thing."""
    if part.outline is not None:
        part.outline = [g.place(outline, x, y, scale, turn) for outline in part.polygons()]
    for child in (*part.front, *part.back):
        _moved(child, x=x, y=y, scale=scale, turn=turn)
    return part


def books(stage: Stage) -> Part:
    """Draw a pile of books with titles on their spines."""
    rng = stage.rng
    pile, last = [], stage.behind
    y = 1.0
    for _ in range(int(rng.integers(2, 5))):
        colour = c.pick(rng, c.ANY, last)
        last = [colour]
        height = float(rng.uniform(0.26, 0.4))
        x0, x1 = -0.75 - float(rng.uniform(0, 0.22)), 0.75 + float(rng.uniform(0, 0.22))
        spine = Part(
            outline=g.round_box(x0, y - height, x1, y, 0.05), material=plain(colour), rounding=0.4
        )
        if rng.random() < 0.7:
            title = g.box(x0 + 0.25, y - height * 0.66, x1 - 0.6, y - height * 0.34)
            ink = plain(stage.colour(c.WHITE if rng.random() < 0.5 else c.VIVID, colour))
            spine.front.append(
                Part(outline=title, material=ink, shadow=0.0, rounding=0.0, mask=0.3)
            )
        pile.append(spine)
        y -= height
    return Part(front=pile)


def lamp(stage: Stage) -> Part:
    """Shade on a slim stand with a foot."""
    rng = stage.rng
    shade = stage.colour(c.PASTEL if rng.random() < 0.5 else c.VIVID)
    stand = stage.colour(c.METAL if rng.random() < 0.5 else c.WOODS)
    metal = plain(stand, gloss=0.5)
    top = float(rng.uniform(0.25, 0.5))
    cloth = fade(c.lighter(shade, 0.35), shade, bevel=0.5)
    if rng.random() < 0.4:
        cloth = textured(rng, shade)
    cone = np.array([[-top, -1.0], [top, -1.0], [0.72, -0.1], [-0.72, -0.1]])
    return Part(
        front=[
            Part(
                outline=[
                    g.stroke([[0.0, 0.95], [0.0, -0.2]], 0.13),
                    g.ellipse(0.0, 0.93, 0.42, 0.09),
                ],
                material=metal,
                rounding=0.3,
            ),
            Part(outline=cone, material=cloth, rounding=0.5),
        ]
    )


def parcel(stage: Stage) -> Part:
    """Draw a box seen from its corner, with a ribbon or tape: front, side and lid are parts."""
    rng = stage.rng
    colour = stage.colour(c.WOODS if rng.random() < 0.5 else c.VIVID)
    ribbon = plain(stage.colour(c.VIVID, colour), gloss=0.2)
    d = float(rng.uniform(0.2, 0.4))
    front = Part(outline=g.box(-0.9, -0.4, 0.9 - d, 1.0), material=plain(colour, bevel=0.2))
    front.front.append(
        Part(
            outline=g.box(-0.17 - d / 2, -0.4, 0.17 - d / 2, 1.0),
            material=ribbon,
            clip=True,
            mask=0.35,
        )
    )
    side = np.array([[0.9 - d, -0.4], [0.9, -0.4 - d], [0.9, 1.0 - d], [0.9 - d, 1.0]])
    lid = np.array([[-0.9, -0.4], [-0.9 + d, -0.4 - d], [0.9, -0.4 - d], [0.9 - d, -0.4]])
    dark = Part(outline=side, material=plain(c.lighter(colour, -0.35), bevel=0.2), rounding=0.05)
    light = Part(outline=lid, material=plain(c.lighter(colour, 0.3), bevel=0.2), rounding=0.05)
    front.rounding, front.mask = 0.05, False
    return Part(front=[dark, light, front])


def _fruit_body(stage: Stage, *, kind: int) -> Part:
    if kind == 0:
        colour = stage.colour(c.Hues((0.0, 0.33), (0.65, 0.95), (0.5, 0.9)))
        skin = Material(base=colour, other=c.lighter(colour, 0.3), pattern=SPECKLES, gloss=0.4)
        outline = g.ellipse(0.0, 0.1, 0.9, 0.88)
    elif kind == 1:
        colour = stage.colour(c.Hues((0.06, 0.11), (0.8, 0.95), (0.8, 0.98)))
        skin = Material(base=colour, other=c.lighter(colour, -0.1), gloss=0.3, roughness=0.1)
        outline = g.ellipse(0.0, 0.1, 0.9, 0.9)
    else:
        colour = stage.colour(c.Hues((0.15, 0.27), (0.5, 0.85), (0.6, 0.9)))
        skin = Material(base=c.lighter(colour, -0.1), other=c.lighter(colour, 0.1), gloss=0.3)
        outline = g.turned(
            [(0.05, -0.88), (0.3, -0.7), (0.42, -0.2), (0.78, 0.45), (0.5, 0.92), (0.0, 1.0)]
        )
    skin.bevel = 0.9
    return Part(outline=outline, material=skin, rounding=0.9, mask=0.0)


def fruit(stage: Stage) -> Part:
    """Draw an apple, orange or pear with stalk and leaf."""
    rng = stage.rng
    body = _fruit_body(stage, kind=int(rng.integers(3)))
    stalk = Part(
        outline=g.stroke([[0.0, -0.72], [0.03, -0.9], [0.1, -1.05]], 0.09),
        material=plain(c.lighter(c.WOODS.draw(rng), -0.4)),
        mask=0.0,
    )
    blade = g.place(g.lens(length=0.33, width=0.42), 0.36, -0.9, turn=-0.05)
    green = plain(stage.colour(c.GREENS))
    body.front = [stalk]
    if rng.random() < 0.7:
        body.front.append(Part(outline=blade, material=green, rounding=0.4))
    return Part(front=[body])


def fruit_bowl(stage: Stage) -> Part:
    """Draw a bowl with three fruits in it."""
    rng = stage.rng
    colour = stage.colour(c.ANY)
    inside = []
    for x, kind in zip((-0.48, 0.46, 0.0), rng.integers(0, 3, 3), strict=True):
        piece = _fruit_body(stage, kind=int(kind))
        piece.mask = 1.0
        inside.append(_moved(piece, x=x, y=-0.12 - (0.15 if x == 0 else 0.0), scale=0.42))
    bowl = np.concatenate(
        [g.arc(0, 0.1, 1.0, 0.1, start=0.5, stop=1.0), g.arc(0, 0.1, 1.0, 0.9, start=0, stop=0.5)]
    )
    clay = textured(rng, colour, gloss=0.4)
    return Part(front=[*inside, Part(outline=bowl, material=clay, rounding=0.6)])


def teddy(stage: Stage) -> Part:
    """Draw a stuffed animal's head: ears with linings, eyes with pupils, muzzle, nose."""
    rng = stage.rng
    fur = stage.colour(c.WOODS if rng.random() < 0.5 else c.PASTEL)
    pale = stage.colour(c.WHITE if rng.random() < 0.5 else c.PASTEL, fur)
    plush = plain(fur, rough=0.16)
    head = Part(outline=g.ellipse(0, 0.08, 0.92, 0.86), material=plush, rounding=0.8, mask=0.2)
    pointed = bool(rng.random() < 0.4)
    for side in (-1.0, 1.0):
        ear = g.ellipse(side * 0.66, -0.62, 0.34)
        lining = g.ellipse(side * 0.66, -0.62, 0.19)
        if pointed:
            ear = np.array([[side * 0.84, -0.98], [side * 0.9, -0.1], [side * 0.25, -0.6]])
            middle = ear.mean(0)
            lining = middle + 0.55 * (ear - middle)
        inner = Part(outline=lining, material=plain(pale), mask=0.3)
        head.back.append(Part(outline=ear, material=plush, front=[inner], rounding=0.4))
        eye = Part(
            outline=g.ellipse(side * 0.36, -0.1, 0.17, 0.19),
            material=plain(stage.colour(c.WHITE, fur), rough=0.0),
        )
        pupil = g.ellipse(side * 0.34, -0.07, 0.09)
        eye.front.append(Part(outline=pupil, material=plain(c.DARK.draw(rng)), mask=0.35))
        head.front.append(eye)
    muzzle = Part(outline=g.ellipse(0, 0.44, 0.4, 0.31), material=plain(pale, rough=0.1))
    smile = g.stroke(g.arc(0, 0.44, 0.2, 0.16, start=0.06, stop=0.44), 0.045)
    ink = plain(stage.colour(c.DARK, pale))
    muzzle.front.append(Part(outline=smile, material=ink, mask=0.0, shadow=0.0))
    muzzle.front.append(
        Part(outline=g.ellipse(0, 0.3, 0.14, 0.1), material=plain(c.DARK.draw(rng), gloss=0.4))
    )
    head.front.append(muzzle)
    return Part(front=[head])


def candle(stage: Stage) -> Part:
    """Draw wax, wick and flame in a holder."""
    rng = stage.rng
    wax = stage.colour(c.PASTEL if rng.random() < 0.5 else c.VIVID)
    flame = Part(
        outline=g.turned([(0.0, -1.0), (0.06, -0.85), (0.13, -0.6), (0.05, -0.45)]),
        material=fade(c.hsv(0.14, 0.3, 1.0), c.hsv(0.08, 0.9, 1.0), bevel=0.0),
        shadow=0.0,
    )
    holder = g.turned([(0.5, 0.72), (0.45, 0.86), (0.3, 1.0)])
    metal = plain(stage.colour(c.METAL, wax), gloss=0.6)
    column = g.round_box(-0.25, -0.42, 0.25, 0.85, 0.06)
    return Part(
        front=[
            Part(outline=column, material=plain(wax), rounding=0.8, mask=0.4),
            Part(outline=holder, material=metal, rounding=0.5),
            flame,
        ]
    )
