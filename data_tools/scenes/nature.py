"""Things that grow, swim or fly. Standing things rest on y = 1, others fill the unit circle."""

from __future__ import annotations

import numpy as np

from data_tools.scenes import colours as c
from data_tools.scenes import geometry as g
from data_tools.scenes.paint import BLADES, CLOUDS, MARBLE, PLAIN, SPECKLES, STRIPES
from data_tools.scenes.parts import Material, Part, fade, plain, textured
from data_tools.scenes.stage import Stage


def _foliage(colour: c.Colour) -> Material:
    return Material(
        base=c.lighter(colour, -0.25),
        other=c.lighter(colour, 0.18),
        pattern=CLOUDS,
        roughness=0.2,
        noise_scale=2.5,
        bevel=0.9,
    )


def tree(stage: Stage) -> Part:
    """Draw a round crown of one to three masses on a trunk, sometimes with fruit."""
    rng = stage.rng
    leaf = stage.colour(c.GREENS if rng.random() < 0.7 else c.AUTUMN)
    trunk = Part(
        outline=g.stroke([[0.02, 1.0], [0.0, 0.5], [0.03, -0.1]], (0.26, 0.16)),
        material=Material(
            base=c.lighter(stage.colour(c.WOODS, leaf), -0.2),
            other=c.WOODS.draw(rng),
            pattern=BLADES,
            roughness=0.15,
        ),
        rounding=0.8,
    )
    crown = Part(mask=0.4)
    masses = int(rng.integers(1, 4))
    for k in range(masses):
        x = 0.0 if masses == 1 else (k - (masses - 1) / 2) * 0.42
        y = -0.35 - (0.12 if k == 1 else 0.0)
        size = 0.66 if masses == 1 else float(rng.uniform(0.42, 0.52))
        lumps = g.place(g.lumps(rng, count=int(rng.integers(7, 11))), x, y, (size * 1.05, size))
        crown.front.append(
            Part(outline=lumps, material=_foliage(leaf), mask=0.0, rounding=0.5, shadow=0.2)
        )
    if rng.random() < 0.3:
        fruit = stage.colour(c.FRUIT, leaf)
        for x, y in rng.uniform((-0.4, -0.65), (0.4, -0.1), (5, 2)):
            dot = g.ellipse(x, y, 0.09, sides=16)
            crown.front.append(
                Part(outline=dot, material=plain(fruit, gloss=0.4), rounding=0.7, mask=0.3)
            )
    return Part(front=[trunk, crown])


def conifer(stage: Stage) -> Part:
    """Draw stacked triangles on a short trunk."""
    rng = stage.rng
    leaf = stage.colour(c.Hues((0.28, 0.46), (0.3, 0.7), (0.15, 0.45)))
    trunk = Part(
        outline=g.box(-0.09, 0.6, 0.09, 1.0), material=plain(c.WOODS.draw(rng)), rounding=0.6
    )
    crown = Part(mask=0.3)
    tiers = int(rng.integers(2, 5))
    for k in range(tiers):
        low = 0.75 - k * 1.2 / tiers
        half = 0.58 * (1.0 - 0.72 * k / tiers)
        high = low - 1.75 / tiers if k < tiers - 1 else -1.0
        zigzag = [
            [half * (1 - 2 * t), low - (0.06 if i % 2 else 0.0)]
            for i, t in enumerate(np.linspace(0.0, 1.0, 9))
        ]
        crown.front.append(
            Part(
                outline=np.array([[0.0, high], *zigzag]),
                material=_foliage(c.lighter(leaf, 0.06 * k)),
                mask=0.0,
                rounding=0.35,
                shadow=0.45,
            )
        )
    return Part(front=[trunk, crown])


def bush(stage: Stage) -> Part:
    """Draw a low leafy mass, sometimes in bloom."""
    rng = stage.rng
    leaf = stage.colour(c.GREENS)
    outline = g.place(g.lumps(rng, count=int(rng.integers(8, 13))), 0.0, 0.4, (0.9, 0.66))
    body = Part(outline=outline, material=_foliage(leaf), rounding=0.5)
    if rng.random() < 0.5:
        petals = stage.colour(c.VIVID, leaf)
        for x, y in rng.uniform((-0.6, 0.1), (0.6, 0.75), (int(rng.integers(3, 7)), 2)):
            bloom = g.place(g.lumps(rng, count=5, depth=0.3), x, y, 0.15)
            body.front.append(Part(outline=bloom, material=plain(petals), rounding=0.5))
    return body


def rock(stage: Stage) -> Part:
    """Draw a boulder with a lighter facet or moss on top."""
    rng = stage.rng
    colour = stage.colour(c.STONE)
    outline = g.place(g.polygon(rng, sides=int(rng.integers(7, 11)), jitter=0.25), 0, 0.3, (1, 0.7))
    stone = Material(
        base=c.lighter(colour, -0.2),
        other=c.lighter(colour, 0.15),
        pattern=CLOUDS,
        roughness=0.14,
        noise_scale=2.0,
        bevel=1.0,
    )
    body = Part(outline=outline, material=stone, rounding=0.45)
    if rng.random() < 0.4:
        moss = _foliage(stage.colour(c.GREENS, colour))
        patch = g.place(g.blob(rng), float(rng.uniform(-0.4, 0.4)), -0.25, (0.6, 0.28))
        body.front.append(Part(outline=patch, material=moss, clip=True, rounding=0.3))
    return body


def flower(stage: Stage) -> Part:
    """Draw petals around a disc, on a thin stem with a leaf."""
    rng = stage.rng
    petal = stage.colour(c.VIVID)
    heart = stage.colour(c.Hues((0.08, 0.16), (0.6, 0.9), (0.35, 0.95)), petal)
    green = stage.colour(c.GREENS)
    bend = float(rng.uniform(-0.2, 0.2))
    stem = g.stroke(g.arc(bend, 0.4, abs(bend) + 0.02, 0.65, start=0.25, stop=0.75), 0.09)
    leaf = g.place(g.lens(length=0.34, width=0.3), 0.3 + bend * 0.2, 0.62, turn=-0.1)
    head = Part()
    count = int(rng.integers(5, 10))
    for k in range(count):
        shape = g.place(g.lens(length=0.3, width=0.62), 0.3, 0.0)
        shape = g.place(shape, 0.0, -0.42, 0.95, turn=k / count)
        head.front.append(Part(outline=shape, material=plain(petal), mask=0.0, rounding=0.5))
    disc = g.ellipse(0.0, -0.42, float(rng.uniform(0.17, 0.26)))
    speckled = Material(base=heart, other=c.lighter(heart, -0.4), pattern=SPECKLES, frequency=10)
    head.front.append(Part(outline=disc, material=speckled, rounding=0.6, mask=0.35))
    return Part(
        mask=0.5,
        front=[
            Part(outline=stem, material=plain(green), thin=True, rounding=0.8, mask=0.0),
            Part(outline=leaf, material=plain(green), rounding=0.5),
            head,
        ],
    )


def mushroom(stage: Stage) -> Part:
    """Draw a stalk and a spotted cap."""
    rng = stage.rng
    cap = stage.colour(c.FRUIT if rng.random() < 0.6 else c.WOODS)
    spot = stage.colour(c.WHITE, cap)
    stalk = Part(
        outline=g.turned([(0.2, -0.2), (0.2, 0.3), (0.34, 0.95), (0.3, 1.0)]),
        material=plain(c.lighter(c.WHITE.draw(rng), -0.08)),
        rounding=0.8,
    )
    dome = np.concatenate(
        [
            g.arc(0, 0.05, 0.9, 0.95, start=0.5, stop=1.0),
            g.arc(0, 0.05, 0.9, 0.2, start=0, stop=0.5),
        ]
    )
    hat = Part(outline=dome, material=plain(cap, gloss=0.35), rounding=0.6)
    for x, y, size in ((-0.45, -0.2, 0.15), (0.05, -0.5, 0.19), (0.48, -0.25, 0.14)):
        outline = g.ellipse(x, y, size, size * 0.8)
        hat.front.append(Part(outline=outline, material=plain(spot), clip=True, rounding=0.4))
    return Part(front=[stalk, hat])


def cactus(stage: Stage) -> Part:
    """Draw a column with arms."""
    rng = stage.rng
    green = stage.colour(c.GREENS)
    skin = Material(base=green, other=c.lighter(green, -0.3), pattern=STRIPES, frequency=6.0)
    arms = []
    for side, y in ((-1.0, 0.1), (1.0, -0.15)):
        if rng.random() < 0.8:
            x = side * 0.55
            path = [[0.0, y + 0.3], [x * 0.8, y + 0.28], [x, y], [x, y - 0.4]]
            arms.append(Part(outline=g.stroke(path, 0.24), material=skin, rounding=0.8))
    column = g.round_box(-0.24, -1.0, 0.24, 1.0, 0.24)
    return Part(front=[*arms, Part(outline=column, material=skin, rounding=0.9, mask=0.0)])


def leaf(stage: Stage) -> Part:
    """Draw a leaf with a midrib and side veins."""
    rng = stage.rng
    colour = stage.colour(c.GREENS if rng.random() < 0.5 else c.AUTUMN)
    body = Part(
        outline=g.lens(length=1.0, width=float(rng.uniform(0.32, 0.55)), skew=-0.3),
        material=Material(
            base=colour, other=c.lighter(colour, -0.3), pattern=CLOUDS, roughness=0.1, bevel=0.5
        ),
        rounding=0.3,
    )
    vein = plain(c.lighter(colour, 0.35))
    lines = [g.stroke([[-1.12, 0.04], [-0.2, 0.0], [0.9, 0.0]], (0.09, 0.03))]
    for x in (-0.6, -0.25, 0.1, 0.4):
        lines += [g.stroke([[x, 0.0], [x + 0.3, s * 0.34]], (0.045, 0.02)) for s in (-1, 1)]
    body.front.append(Part(outline=lines, material=vein, clip=True, mask=0.0, shadow=0.0))
    return body


def fish(stage: Stage) -> Part:
    """Draw body, tail, fin and eye with its pupil."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    fin = plain(stage.colour(c.VIVID, colour))
    tail = np.array([[-0.5, 0.0], [-1.0, -0.45], [-0.86, 0.0], [-1.0, 0.45]])
    top = np.array([[-0.3, -0.3], [-0.2, -0.66], [0.25, -0.6], [0.35, -0.25]])
    body = Part(
        outline=g.place(g.lens(length=0.8, width=0.46, skew=0.25), 0.15),
        material=textured(rng, colour, gloss=0.3),
        rounding=0.6,
        mask=0.0,
        back=[
            Part(outline=tail, material=fin, rounding=0.2),
            Part(outline=top, material=fin, rounding=0.2),
        ],
    )
    eye = Part(outline=g.ellipse(0.6, -0.1, 0.15), material=plain(c.WHITE.draw(rng)))
    eye.front.append(Part(outline=g.ellipse(0.63, -0.1, 0.075), material=plain(c.DARK.draw(rng))))
    side = g.place(g.lens(length=0.26, width=0.4), 0.02, 0.12, turn=0.1)
    body.front += [Part(outline=side, material=fin, rounding=0.3, mask=0.4), eye]
    return body


def bird(stage: Stage) -> Part:
    """Draw a perched or gliding bird: body, wing, beak, eye."""
    rng = stage.rng
    colour = stage.colour(c.ANY)
    wing = g.place(g.lens(length=0.55, width=0.42, skew=-0.4), -0.15, 0.05, turn=0.06)
    beak = np.array([[0.72, -0.42], [1.05, -0.3], [0.72, -0.22]])
    tail = g.stroke([[-0.5, 0.2], [-1.0, 0.42]], (0.22, 0.34))
    body = np.concatenate([g.ellipse(-0.05, 0.1, 0.7, 0.42)])
    head = g.ellipse(0.55, -0.33, 0.28)
    feathers = plain(colour, rough=0.12)
    whole = Part(
        outline=[body, head, tail],
        material=feathers,
        rounding=0.6,
        back=[Part(outline=beak, material=plain(c.AUTUMN.draw(rng)), rounding=0.3)],
    )
    whole.front.append(Part(outline=wing, material=plain(stage.colour(c.ANY, colour)), mask=0.4))
    whole.front.append(Part(outline=g.ellipse(0.62, -0.38, 0.07), material=plain(c.DARK.draw(rng))))
    return whole


def butterfly(stage: Stage) -> Part:
    """Draw four wings with eye spots about a slim body."""
    rng = stage.rng
    colour = stage.colour(c.VIVID)
    spot = plain(stage.colour(c.ANY, colour))
    wings = []
    for side in (-1.0, 1.0):
        for length, width, turn in ((0.44, 0.5, 0.11), (0.52, 0.55, -0.1)):
            blade = g.lens(length=length, width=width * length / 0.5, skew=0.5)
            outline = g.place(g.place(blade, length + 0.02), turn=turn) * (side, 1.0)
            dot = g.place(g.place(g.ellipse(0, 0, 0.14), 1.35 * length), turn=turn) * (side, 1.0)
            mark = Part(outline=dot, material=spot, clip=True, mask=0.3)
            wings.append(
                Part(outline=outline, material=plain(colour, rough=0.1), front=[mark], mask=0.25)
            )
    body = g.lens(length=0.75, width=0.14)[:, ::-1]
    trunk = Part(outline=body, material=plain(c.DARK.draw(rng)), rounding=0.8, mask=0.4)
    return Part(front=[*wings, trunk])


def starfish(stage: Stage) -> Part:
    """Draw five soft arms with a row of dots."""
    colour = stage.colour(c.Hues((0.93, 1.15), (0.5, 0.9), (0.5, 0.95)))
    outline = g.star(points=5, inner=float(stage.rng.uniform(0.36, 0.5)))
    skin = Material(base=colour, other=c.lighter(colour, 0.4), pattern=SPECKLES, frequency=9.0)
    return Part(outline=outline, material=skin, rounding=0.35)


def coral(stage: Stage) -> Part:
    """Draw a branching fan."""
    rng = stage.rng
    material = plain(stage.colour(c.VIVID), rough=0.15)
    limbs = [g.stroke([[0.0, 1.0], [0.0, 0.3]], (0.34, 0.26))]
    for angle in rng.uniform(-0.1, 0.1, 5) + np.linspace(-0.17, 0.17, 5):
        turn = angle * 2 * np.pi
        tip = np.array([np.sin(turn) * 1.15, 0.45 - np.cos(turn) * 1.3])
        limbs.append(g.stroke(np.stack([(0.0, 0.5), tip * 0.55, tip]), (0.22, 0.15)))
        limbs.append(g.ellipse(float(tip[0]), float(tip[1]), 0.1, sides=16))
    return Part(outline=limbs, material=material, rounding=0.15)


def seaweed(stage: Stage) -> Part:
    """Thin waving blades."""
    rng = stage.rng
    colour = stage.colour(c.GREENS)
    y = np.linspace(1.0, -1.0, 16)
    blades = []
    for x in np.linspace(-0.3, 0.3, int(rng.integers(2, 4))):
        sway = 0.12 * np.sin(3.2 * y + rng.uniform(0, 6.0)) * (1.2 - y)
        path = np.stack([x + sway, y * rng.uniform(0.7, 1.0) + 0.15], 1)
        outline = g.stroke(path, (0.22, 0.05))
        blades.append(Part(outline=outline, material=plain(colour), rounding=0.6, thin=True))
    return Part(front=blades, thin=True, mask=0.4)


def cloud(stage: Stage) -> Part:
    """Draw a bank of vapour."""
    rng = stage.rng
    outline = [
        g.place(g.lumps(rng, count=7), x, y, (s * 1.2, s))
        for x, y, s in ((-0.5, 0.1, 0.36), (0.0, -0.06, 0.48), (0.5, 0.12, 0.34))
    ]
    top, low = c.WHITE.draw(rng), c.lighter(c.WHITE.draw(rng), -0.22)
    return Part(outline=outline, material=fade(top, low, bevel=0.35), rounding=0.6, shadow=0.05)


def pebble(stage: Stage) -> Part:
    """Draw a smooth stone, sometimes veined."""
    rng = stage.rng
    colour = stage.colour(c.STONE if rng.random() < 0.5 else c.ANY)
    vein = Material(
        base=colour,
        other=c.lighter(colour, 0.5),
        pattern=int(rng.choice([PLAIN, MARBLE, SPECKLES])),
        frequency=float(rng.uniform(1.0, 3.0)),
        angle=float(rng.uniform(0, 3)),
        roughness=0.07,
        gloss=0.15,
        bevel=0.9,
    )
    outline = g.place(g.blob(rng, wobble=0.1), scale=(1.0, float(rng.uniform(0.6, 0.95))))
    return Part(outline=outline, material=vein, rounding=0.7)
