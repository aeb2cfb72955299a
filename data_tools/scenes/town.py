"""Buildings, vehicles and street furniture. Standing things rest on y = 1."""

from __future__ import annotations

import numpy as np

from data_tools.scenes import colours as c
from data_tools.scenes import geometry as g
from data_tools.scenes.paint import BLADES, BRICKS, CLOUDS, STRIPES
from data_tools.scenes.parts import Material, Part, fade, plain, textured
from data_tools.scenes.stage import Stage


def _walls(stage: Stage, colour: c.Colour) -> Material:
    if stage.rng.random() < 0.45:
        mortar = c.lighter(colour, 0.35)
        return Material(base=colour, other=mortar, pattern=BRICKS, frequency=9.0, roughness=0.1)
    return Material(base=c.lighter(colour, -0.1), other=colour, pattern=CLOUDS, roughness=0.07)


def _window(x: float, y: float, w: float, h: float, *, glass: Material, frame: Material) -> Part:
    """Draw a framed pane; the frame is the mask and the pane a part of it."""
    pane = Part(outline=g.box(x - w + 0.05, y - h + 0.05, x + w - 0.05, y + h - 0.05), mask=0.0)
    pane.material, pane.rounding, pane.shadow = glass, 0.1, 0.25
    return Part(
        outline=g.box(x - w, y - h, x + w, y + h), material=frame, front=[pane], rounding=0.1
    )


def house(stage: Stage) -> Part:
    """Draw walls with door and windows under a roof with a chimney."""
    rng = stage.rng
    wall = stage.colour(c.PASTEL if rng.random() < 0.5 else c.BRICK)
    roof = stage.colour(c.BRICK if rng.random() < 0.5 else c.DARK, wall)
    glass_colour = stage.colour(c.GLASS, wall)
    glass = fade(c.lighter(glass_colour, 0.25), glass_colour)
    frame = plain(c.lighter(wall, 0.5))
    body = Part(
        outline=g.box(-0.8, -0.2, 0.8, 1.0),
        material=_walls(stage, wall),
        rounding=0.06,
        mask=0.2,
    )
    middle = float(rng.uniform(-0.1, 0.1))
    door = Part(
        outline=g.box(middle - 0.15, 0.35, middle + 0.15, 1.0),
        material=plain(stage.colour(c.VIVID, wall)),
        rounding=0.15,
    )
    knob = g.ellipse(middle + 0.09, 0.7, 0.03, sides=12)
    door.front.append(Part(outline=knob, material=plain(c.WHITE.draw(rng)), mask=0.0))
    body.front.append(door)
    for x in (-0.5, 0.5):
        body.front.append(_window(x, 0.3, 0.22, 0.26, glass=glass, frame=frame))
    gable = np.array([[0.0, -1.0], [1.0, -0.15], [-1.0, -0.15]])
    if rng.random() < 0.5:
        gable = np.array([[-0.6, -0.85], [0.6, -0.85], [1.0, -0.15], [-1.0, -0.15]])
    tiles = Material(
        base=roof, other=c.lighter(roof, -0.35), pattern=STRIPES, frequency=9.0, angle=1.5708
    )
    top = Part(outline=gable, material=tiles, rounding=0.06, shadow=0.5)
    if rng.random() < 0.6:
        side = float(rng.choice([-0.5, 0.4]))
        chimney = g.box(side, -0.98, side + 0.2, -0.45)
        top.back.append(Part(outline=chimney, material=plain(c.BRICK.draw(rng)), rounding=0.1))
    return Part(front=[body, top])


def tower(stage: Stage) -> Part:
    """Draw a block of flats or offices with a grid of windows."""
    rng = stage.rng
    wall = stage.colour(c.STONE if rng.random() < 0.6 else c.GLASS)
    half = float(rng.uniform(0.38, 0.6))
    body = Part(outline=g.box(-half, -1.0, half, 1.0), material=_walls(stage, wall), rounding=0.05)
    pane = stage.colour(c.GLASS if rng.random() < 0.6 else c.DARK, wall)
    lit = c.Hues((0.1, 0.15), (0.3, 0.6), (0.85, 1.0)).draw(rng)
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(3, 6))
    gap_x, gap_y = 2 * half / columns, 1.8 / rows
    for k in range(columns * rows):
        x = -half + gap_x * (k % columns + 0.5)
        y = -0.92 + gap_y * (k // columns + 0.5)
        outline = g.box(x - gap_x * 0.3, y - gap_y * 0.3, x + gap_x * 0.3, y + gap_y * 0.3)
        material = plain(lit if rng.random() < 0.15 else pane)
        # A few windows speak for all: SA-1B does not hold every one either.
        body.front.append(Part(outline=outline, material=material, mask=0.25, rounding=0.1))
    if rng.random() < 0.4:
        mast = g.stroke([[0.0, -0.98], [0.0, -1.35]], 0.05)
        body.back.append(Part(outline=mast, material=plain(c.DARK.draw(rng)), thin=True))
    return body


def _wheel(stage: Stage, x: float, y: float, radius: float) -> Part:
    tyre = plain(c.GREYS.draw(stage.rng) * 0.2 + 0.05)
    rim = g.ellipse(x, y, radius * 0.52, sides=28)
    hub = Part(outline=rim, material=plain(c.METAL.draw(stage.rng)), mask=0.3)
    return Part(outline=g.ellipse(x, y, radius), material=tyre, front=[hub], rounding=0.3)


def car(stage: Stage) -> Part:
    """Draw body, cabin windows, wheels with hubs, lamps."""
    rng = stage.rng
    colour = stage.colour(c.VIVID if rng.random() < 0.7 else c.GREYS)
    glass_colour = stage.colour(c.GLASS, colour)
    glass = fade(c.lighter(glass_colour, 0.4), glass_colour)
    roof = float(rng.uniform(-0.2, 0.05))
    shell = np.array(
        [
            [-1.0, 0.72], [-1.0, 0.38], [-0.93, 0.28], [-0.62, 0.22], [-0.4, roof + 0.02],
            [-0.3, roof - 0.02], [0.3, roof - 0.02], [0.4, roof + 0.02], [0.68, 0.24],
            [0.95, 0.34], [1.0, 0.48], [1.0, 0.72], [0.95, 0.8], [-0.95, 0.8],
        ]
    )  # fmt: skip
    body = Part(outline=shell, material=plain(colour, gloss=0.5, rough=0.02), rounding=0.3)
    body.mask = 0.0
    rear = np.array([[-0.5, 0.24], [-0.33, roof + 0.07], [-0.05, roof + 0.07], [-0.05, 0.24]])
    fore = np.array([[0.03, 0.24], [0.03, roof + 0.07], [0.3, roof + 0.07], [0.52, 0.24]])
    body.front += [Part(outline=o, material=glass, rounding=0.15) for o in (rear, fore)]
    lamp = plain(c.Hues((0.1, 0.15), (0.2, 0.5), (0.9, 1.0)).draw(rng), gloss=0.4)
    body.front.append(
        Part(outline=g.round_box(0.84, 0.4, 0.99, 0.52, 0.05), material=lamp, mask=0.0)
    )
    seam = [g.stroke([[-0.01, 0.26], [-0.01, 0.72]], 0.02)]
    line = Part(outline=seam, material=plain(c.lighter(colour, -0.5)), mask=0.0, shadow=0.0)
    body.front.append(line)
    return Part(front=[body, *(_wheel(stage, x, 0.76, 0.24) for x in (-0.58, 0.6))])


def bus(stage: Stage) -> Part:
    """Draw a long box with a row of windows and a stripe."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    glass = fade(c.GLASS.draw(rng), c.lighter(stage.colour(c.GLASS, colour), -0.3))
    body = Part(
        outline=g.round_box(-1.0, -0.25, 1.0, 0.82, 0.12),
        material=plain(colour, gloss=0.3, rough=0.02),
        rounding=0.2,
        mask=0.0,
    )
    stripe = Part(
        outline=g.box(-1.0, 0.42, 1.0, 0.55),
        material=plain(stage.colour(c.WHITE, colour)),
        clip=True,
    )
    stripe.mask, stripe.shadow = 0.2, 0.0
    body.front.append(stripe)
    count = int(rng.integers(3, 6))
    for x in np.linspace(-0.88, 0.9, count + 1)[:-1]:
        pane = g.round_box(x, -0.08, x + 1.78 / count - 0.09, 0.32, 0.06)
        body.front.append(Part(outline=pane, material=glass, rounding=0.15, mask=0.5))
    return Part(front=[body, *(_wheel(stage, x, 0.8, 0.2) for x in (-0.6, 0.62))])


def lamp_post(stage: Stage) -> Part:
    """Draw a thin pole with an arm and a lantern."""
    rng = stage.rng
    metal = plain(stage.colour(c.DARK if rng.random() < 0.6 else c.METAL), gloss=0.2)
    pole = [g.stroke([[0.0, 1.0], [0.0, -0.9]], (0.1, 0.06)), g.box(-0.1, 0.9, 0.1, 1.0)]
    if rng.random() < 0.5:
        pole.append(g.stroke(g.arc(0.22, -0.85, 0.22, 0.14, start=0.5, stop=1.0), 0.06))
        head = g.place(g.turned([(0.05, -0.9), (0.18, -0.7)], smooth=False), 0.44, 0.05)
    else:
        head = g.turned([(0.06, -1.0), (0.17, -0.9), (0.12, -0.62)], smooth=False)
    glow = plain(c.Hues((0.1, 0.15), (0.15, 0.4), (0.92, 1.0)).draw(rng))
    return Part(
        front=[
            Part(outline=pole, material=metal, thin=True, rounding=0.5, mask=0.4),
            Part(outline=head, material=glow, rounding=0.3),
        ],
        thin=True,
        mask=0.4,
    )


def sign(stage: Stage) -> Part:
    """Draw a road sign on a pole: disc, triangle, octagon or board, with a device."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    face = stage.colour(c.WHITE, colour)
    sides = int(rng.choice([3, 4, 8, 36]))
    t = (np.arange(sides) + (0.5 if sides != 3 else 0.0)) * 2 * np.pi / sides - np.pi / 2
    plate = np.stack([np.cos(t), np.sin(t)], 1)
    board = Part(outline=g.place(plate, 0.0, -0.45, 0.55), material=plain(colour), rounding=0.08)
    inner = Part(outline=g.place(plate, 0.0, -0.45, 0.4), material=plain(face), rounding=0.05)
    inner.shadow, inner.mask = 0.0, 0.25
    bar = g.place(
        g.box(-0.25, -0.07, 0.25, 0.07), 0.0, -0.45, turn=float(rng.choice([0, 0.25, 0.1]))
    )
    inner.front.append(
        Part(outline=bar, material=plain(stage.colour(c.DARK, face)), clip=True, mask=0.0)
    )
    board.front.append(inner)
    pole = g.stroke([[0.0, 1.0], [0.0, -0.4]], 0.08)
    metal = plain(stage.colour(c.METAL), gloss=0.3)
    pole_part = Part(outline=pole, material=metal, thin=True, rounding=0.6, mask=0.5)
    return Part(front=[pole_part, board], mask=0.5)


def traffic_light(stage: Stage) -> Part:
    """Draw a dark case with three lamps, one of them lit, on a pole."""
    rng = stage.rng
    case = stage.colour(c.Hues((0.1, 0.5), (0.0, 0.6), (0.1, 0.25)))
    pole = g.stroke([[0.0, 1.0], [0.0, -0.1]], 0.1)
    body = Part(
        outline=g.round_box(-0.27, -1.0, 0.27, 0.2, 0.1), material=plain(case), rounding=0.3
    )
    lit = int(rng.integers(3))
    for k, hue in enumerate((0.0, 0.12, 0.38)):
        glow = c.hsv(hue, 0.85, 0.95 if k == lit else 0.42)
        lamp = g.ellipse(0.0, -0.78 + 0.38 * k, 0.16)
        body.front.append(Part(outline=lamp, material=plain(glow, gloss=0.3), mask=0.5))
    metal = plain(stage.colour(c.METAL))
    pole_part = Part(outline=pole, material=metal, thin=True, rounding=0.6, mask=0.5)
    return Part(front=[pole_part, body], mask=0.4)


def person(stage: Stage) -> Part:
    """Draw a standing figure: head with hair, shirt, arms, trousers, shoes."""
    rng = stage.rng
    skin = c.SKIN.draw(rng)
    shirt = stage.colour(c.ANY)
    cloth = textured(rng, shirt)
    trousers = plain(stage.colour(c.ANY, shirt))
    legs = [g.stroke([[s * 0.13, 0.25], [s * 0.15, 0.9]], (0.24, 0.17)) for s in (-1.0, 1.0)]
    shoes = [g.round_box(s * 0.17 - 0.12, 0.88, s * 0.17 + 0.12, 1.0, 0.06) for s in (-1.0, 1.0)]
    swing = rng.uniform(0.32, 0.5, 2)
    arms = []
    for side, width in zip((-1.0, 1.0), swing, strict=True):
        path = [[side * 0.24, -0.4], [side * width, -0.1], [side * (width + 0.02), 0.2]]
        hand = Part(outline=g.ellipse(side * (width + 0.02), 0.22, 0.085), mask=0.3)
        hand.material = plain(skin)
        sleeve = g.stroke(path, (0.19, 0.13))
        arms.append(Part(outline=sleeve, material=cloth, rounding=0.7, back=[hand]))
    head = Part(outline=g.ellipse(0.0, -0.74, 0.17, 0.22), material=plain(skin), rounding=0.6)
    hair = np.concatenate(
        [
            g.arc(0, -0.76, 0.19, 0.24, start=0.47, stop=1.03),
            g.arc(0, -0.8, 0.13, 0.1, start=1, stop=0.5),
        ]
    )
    head.front.append(
        Part(outline=hair, material=plain(stage.colour(c.WOODS, skin), rough=0.2), rounding=0.4)
    )
    torso = g.turned([(0.12, -0.5), (0.27, -0.42), (0.23, 0.0), (0.25, 0.32)])
    return Part(
        front=[
            Part(outline=shoes, material=plain(c.DARK.draw(rng)), mask=0.0),
            Part(outline=legs, material=trousers, rounding=0.5),
            *arms,
            Part(outline=torso, material=cloth, rounding=0.5, mask=0.6),
            head,
        ]
    )


def boat(stage: Stage) -> Part:
    """Draw a hull with a stripe, mast and two sails."""
    rng = stage.rng
    hull_colour = stage.colour(c.ANY)
    hull = Part(
        outline=np.array([[-0.85, 0.55], [0.95, 0.5], [0.62, 1.0], [-0.6, 1.0]]),
        material=plain(hull_colour, gloss=0.2),
        rounding=0.3,
    )
    band = Part(
        outline=g.box(-1.0, 0.62, 1.0, 0.72),
        material=plain(stage.colour(c.WHITE, hull_colour)),
        clip=True,
        shadow=0.0,
        mask=0.0,
    )
    hull.front.append(band)
    mast = Part(outline=g.stroke([[0.0, 0.6], [0.0, -1.0]], 0.05), thin=True, mask=0.0)
    mast.material = plain(c.WOODS.draw(rng))
    sail = textured(rng, stage.colour(c.WHITE if rng.random() < 0.5 else c.VIVID))
    main = np.array([[0.05, -0.95], [0.3, -0.3], [0.72, 0.4], [0.05, 0.4]])
    jib = np.array([[-0.05, -0.8], [-0.05, 0.4], [-0.62, 0.4]])
    sails = [Part(outline=o, material=sail, rounding=0.25, shadow=0.15) for o in (main, jib)]
    return Part(front=[mast, hull, *sails])


def hot_air_balloon(stage: Stage) -> Part:
    """Draw an envelope with gores, ropes and a basket."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    other = stage.colour(c.VIVID, colour)
    silk = Material(base=colour, other=other, pattern=STRIPES, frequency=3.0, roughness=0.03)
    silk.angle = float(rng.choice([0.0, 1.5708]))
    envelope = Part(
        outline=g.turned([(0.02, -1.0), (0.55, -0.8), (0.72, -0.35), (0.45, 0.2), (0.16, 0.5)]),
        material=silk if rng.random() < 0.6 else plain(colour, gloss=0.2),
        rounding=0.7,
    )
    ropes = [g.stroke([[s * 0.14, 0.48], [s * 0.11, 0.75]], 0.03) for s in (-1.0, 1.0)]
    rope = Part(outline=ropes, material=plain(c.DARK.draw(rng)), mask=0.0, shadow=0.0)
    weave = c.WOODS.draw(rng)
    basket = Part(
        outline=g.round_box(-0.15, 0.72, 0.15, 1.0, 0.05),
        material=Material(base=weave, other=c.lighter(weave, -0.4), pattern=BLADES),
        rounding=0.3,
    )
    return Part(front=[rope, envelope, basket])


def fence(stage: Stage) -> Part:
    """Draw a few pales on two rails."""
    colour = stage.colour(c.WHITE if stage.rng.random() < 0.5 else c.WOODS)
    rails = [g.box(-1.0, y, 1.0, y + 0.09) for y in (0.35, 0.75)]
    pales = [
        np.array([[x, 1.0], [x, 0.2], [x + 0.08, 0.1], [x + 0.16, 0.2], [x + 0.16, 1.0]])
        for x in np.linspace(-0.95, 0.8, 6)
    ]
    return Part(outline=[*rails, *pales], material=plain(colour), rounding=0.05, thin=True)
