"""A scene from a seed and a number."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from data_tools.scenes.backdrop import Slot
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.geometry import Frame, Rng, ellipse
from data_tools.scenes.masks import visible_masks
from data_tools.scenes.noise import noise_tiles
from data_tools.scenes.paint import develop
from data_tools.scenes.parts import Part
from data_tools.scenes.settings import SETTINGS
from data_tools.scenes.stage import Stage


@dataclass(frozen=True, slots=True)
class Scene:
    """A procedural photo with its ground truth."""

    image: npt.NDArray[np.uint8]
    """[H, W, 3] RGB."""
    masks: npt.NDArray[np.bool_]
    """[N, H, W] visible pixels of wholes, parts and subparts."""
    parents: list[int]
    """Index of the whole that each mask is a part of, or -1."""
    jpeg_quality: int
    """The photo as the camera would store it."""


def render_scene(seed: int, index: int, *, height: int, width: int) -> Scene:
    """Draw scene `index` of the endless collection `seed`, the same wherever and whenever it is
    drawn.

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
    exposure = float(np.exp(rng.normal(0.1, 0.07)))
    gains = np.array([1.0 + warmth, 1.0, 1.0 - warmth], np.float32) * exposure
    image = develop(
        canvas.image,
        noise_tiles(),
        gains,
        (
            float(rng.uniform(0.98, 1.15)),
            float(rng.uniform(0.0, 0.2)),
            float(rng.uniform(0.0, 0.7)),
        ),
        float(rng.uniform(0.002, 0.016)),
    )
    return Scene(image, masks.stack, masks.parents, int(rng.integers(82, 96)))


def compose(canvas: Canvas, rng: Rng) -> None:
    """Choose a setting and put things into its slots, from back to front."""
    shares = np.array([share for _, share in SETTINGS])
    paint_setting, _ = SETTINGS[int(rng.choice(len(SETTINGS), p=shares / shares.sum()))]
    taken: list[tuple[float, float, float]] = []
    for slot in _filled(canvas, rng, paint_setting(canvas, rng).slots):
        frame = _find_room(canvas, rng, slot, taken)
        taken.append((frame.x, frame.y, frame.scale))
        family = slot.families[int(rng.integers(len(slot.families)))]
        stage = Stage(rng, canvas.colour_at(frame.x, frame.y, 0.8 * frame.scale))
        thing = family(stage)
        if slot.standing:
            frame = grounded(thing, frame)
        if slot.shadow > 0:
            cast_shadow(canvas, thing, frame, slot)
        canvas.add(thing, frame)


def _filled(canvas: Canvas, rng: Rng, slots: list[Slot]) -> list[Slot]:
    """Return the slots of a square, as many times as the picture is larger than one."""
    squares = canvas.right * canvas.bottom
    return [slot for slot in slots for _ in range(int(squares + rng.random() * (squares > 1)))]


def _find_room(
    canvas: Canvas, rng: Rng, slot: Slot, taken: list[tuple[float, float, float]]
) -> Frame:
    """Choose the place of six tries that covers least of what is there already."""
    best, best_overlap = None, np.inf
    size = float(rng.uniform(*slot.size))
    for _ in range(6):
        across, share = rng.random(2).tolist()
        x = slot.x[0] + (slot.x[1] - slot.x[0]) * across
        y = slot.y[0] + (slot.y[1] - slot.y[0]) * share
        scale = size * (1.0 + (slot.near - 1.0) * share)
        centre = y - scale if slot.standing else y
        overlap = 0.0
        for other_x, other_y, other in taken:
            apart = math.hypot(x - other_x, centre - other_y)
            overlap += max(0.0, scale + other - apart) / min(scale, other)
        if overlap < best_overlap:
            best, best_overlap = (x, centre, scale), overlap
        if overlap < 0.3:
            break
    assert best is not None
    angle = float(rng.uniform(-3.14, 3.14)) if slot.tilt > 3 else float(rng.normal(0, slot.tilt))
    mirror = bool(rng.random() < 0.5)
    return Frame(x=best[0], y=best[1], scale=best[2], angle=angle, mirror=mirror)


def grounded(thing: Part, frame: Frame) -> Frame:
    """Move `frame` down or up so that the thing's lowest point is where its foot should be."""
    lowest = max(float(frame.to_scene(outline)[:, 1].max()) for outline in thing.silhouette())
    return replace(frame, y=frame.y + frame.y + frame.scale - lowest)


def cast_shadow(canvas: Canvas, thing: Part, frame: Frame, slot: Slot) -> None:
    """Draw the thing's silhouette on the ground (standing) or just beside it (lying, hanging)."""
    outlines = [frame.to_scene(outline) for outline in thing.silhouette()]
    side, front = float(canvas.light[0]), float(canvas.light[1])
    if not slot.standing:
        moved = [o - np.array([side, front]) * 0.12 * frame.scale for o in outlines]
        canvas.veil(moved, softness=0.05 * frame.scale + 0.004, strength=slot.shadow)
        return
    points = np.concatenate(outlines)
    foot = float(points[:, 1].max())
    # Upright matter laid down on the ground, away from the light, foreshortened.
    flat = [
        np.stack(
            [o[:, 0] - 0.9 * side * (foot - o[:, 1]), foot - 0.28 * front * (foot - o[:, 1])], 1
        )
        for o in outlines
    ]
    canvas.veil(flat, softness=0.1 * frame.scale, strength=slot.shadow)
    base = points[points[:, 1] > foot - 0.12 * frame.scale, 0]
    reach = max(0.6 * float(np.ptp(base)), 0.15 * frame.scale)
    contact = ellipse(float(base.mean()), foot, reach, 0.1 * frame.scale, sides=20)
    canvas.veil([contact], softness=0.14 * frame.scale, strength=0.8 * slot.shadow)
