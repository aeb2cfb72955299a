"""One scene from a seed and a number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_tools.scenes import colours as c
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.geometry import Frame, Rng, box
from data_tools.scenes.masks import visible_masks
from data_tools.scenes.noise import noise_tiles
from data_tools.scenes.paint import CLOUDS, WOOD, develop
from data_tools.scenes.parts import Material, Part
from data_tools.scenes.stage import Stage
from data_tools.scenes.things import FAMILIES


@dataclass(frozen=True, slots=True)
class Scene:
    """A procedural photo with its ground truth."""

    image: npt.NDArray[np.uint8]
    """[H, W, 3] RGB."""
    masks: npt.NDArray[np.bool_]
    """[N, H, W] visible pixels of wholes, parts and subparts."""
    parents: list[int]
    """For each mask the index of the whole it is a part of, or -1."""
    jpeg_quality: int
    """As the camera would store it."""


def render_scene(seed: int, index: int, *, height: int, width: int) -> Scene:
    """Scene `index` of the endless collection `seed`, the same wherever and whenever it is drawn.

    Args:
        seed: of the collection; not negative.
        index: of the scene within it; not negative.
        height, width: of the photo in pixels, each at least 16.

    Raises:
        ValueError: a negative number, or a side below 16.
    """
    if min(height, width) < 16:
        raise ValueError(f"scenes need sides of at least 16 pixels, got {height}x{width}")
    if min(seed, index) < 0:
        raise ValueError(f"seed and index must not be negative, got {seed} and {index}")
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence([seed, index])))
    canvas = Canvas(rng, height=height, width=width)
    compose(canvas, rng)
    masks = visible_masks(canvas)
    warmth = float(rng.normal(0.0, 0.04))
    exposure = float(np.exp(rng.normal(0.05, 0.08)))
    gains = np.array([1.0 + warmth, 1.0, 1.0 - warmth], np.float32) * exposure
    image = develop(
        canvas.image,
        noise_tiles(),
        gains,
        float(rng.uniform(0.95, 1.15)),
        float(rng.uniform(0.0, 0.25)),
        float(rng.uniform(0.002, 0.02)),
        float(rng.uniform(0.0, 0.7)),
    )
    return Scene(image, masks.stack, masks.parents, int(rng.integers(82, 96)))


def compose(canvas: Canvas, rng: Rng) -> None:
    """Choose a background and set things on it."""
    colour = c.ANY.draw(rng)
    surface = Material(
        base=colour,
        other=c.lighter(colour, 0.3),
        pattern=int(rng.choice([CLOUDS, WOOD])),
        frequency=6.0,
        roughness=0.06,
    )
    whole = box(-0.01, -0.01, canvas.right + 0.01, canvas.bottom + 0.01)
    canvas.backdrop(Part(outline=whole, material=surface, rounding=0.0, shadow=0.0))
    for _ in range(int(rng.integers(4, 9))):
        x, y = rng.uniform((0.1, 0.1), (canvas.right - 0.1, canvas.bottom - 0.1))
        size = float(rng.uniform(0.12, 0.24))
        stage = Stage(rng, canvas.colour_at(x, y, size))
        family = FAMILIES[int(rng.integers(len(FAMILIES)))]
        canvas.add(family(stage), Frame(x=x, y=y, scale=size, angle=float(rng.normal(0, 0.15))))
