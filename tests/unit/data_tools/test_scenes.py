"""Procedural scenes: any size, repeatable, and masks that mean what they should."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy import ndimage

from data_tools.scenes import Scene, flat, household, nature, render_scene, town
from data_tools.scenes.canvas import Canvas
from data_tools.scenes.colours import CLEARLY_APART, VIVID, distance, hsv, pick
from data_tools.scenes.geometry import Frame
from data_tools.scenes.masks import SMALLEST, visible_masks
from data_tools.scenes.stage import Stage

FAMILIES = [
    function
    for module in (nature, household, flat, town)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(3, index, height=256, width=256) for index in range(24)]


def test_the_same_number_draws_the_same_scene(scenes: list[Scene]) -> None:
    again = render_scene(3, 5, height=256, width=256)
    np.testing.assert_array_equal(again.image, scenes[5].image)
    np.testing.assert_array_equal(again.masks, scenes[5].masks)
    assert again.parents == scenes[5].parents


def test_other_numbers_and_seeds_draw_other_scenes(scenes: list[Scene]) -> None:
    pictures = {scene.image.tobytes() for scene in scenes}
    pictures.add(render_scene(4, 5, height=256, width=256).image.tobytes())
    assert len(pictures) == 25


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (301, 97), (200, 640)])
def test_any_size(height: int, width: int) -> None:
    scene = render_scene(0, 1, height=height, width=width)
    assert scene.image.shape == (height, width, 3)
    assert scene.image.dtype == np.uint8
    assert scene.masks.shape == (len(scene.parents), height, width)
    assert scene.masks.dtype == bool


def test_a_larger_photo_shows_the_same_scene() -> None:
    small = render_scene(0, 2, height=128, width=128)
    large = render_scene(0, 2, height=256, width=256)
    halved = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 12
    union = large.masks.any(0).reshape(128, 2, 128, 2).mean((1, 3)) > 0.5
    assert (union == small.masks.any(0)).mean() > 0.9


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 16 pixels, got 8x64"):
        render_scene(0, 0, height=8, width=64)
    with pytest.raises(ValueError, match="must not be negative, got 0 and -1"):
        render_scene(0, -1, height=64, width=64)


def test_parts_lie_within_their_wholes(scenes: list[Scene]) -> None:
    parts = 0
    for scene in scenes:
        for mask, parent in zip(scene.masks, scene.parents, strict=True):
            if parent >= 0:
                parts += 1
                assert not (mask & ~scene.masks[parent]).any()
                assert mask.sum() < scene.masks[parent].sum()
    assert parts > 100


def test_masks_that_are_not_nested_do_not_overlap(scenes: list[Scene]) -> None:
    def lineage(parents: list[int], k: int) -> set[int]:
        return {k} | (lineage(parents, parents[k]) if parents[k] >= 0 else set())

    for scene in scenes:
        for a in range(len(scene.masks)):
            for b in range(a):
                if b not in lineage(scene.parents, a) and a not in lineage(scene.parents, b):
                    assert not (scene.masks[a] & scene.masks[b]).any()


def test_masks_are_neither_specks_nor_everything(scenes: list[Scene]) -> None:
    areas = np.concatenate([scene.masks.sum((1, 2)) for scene in scenes])
    assert areas.min() >= SMALLEST
    assert areas.max() <= 0.9 * 256 * 256
    assert 10 < len(areas) / len(scenes) < 24


def test_one_click_mostly_tells_which_mask_is_meant(scenes: list[Scene]) -> None:
    scores = []
    for scene in scenes[:12]:
        areas = scene.masks.sum((1, 2))
        for mask in scene.masks:
            depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            under = np.flatnonzero(scene.masks[:, y, x])
            answer = scene.masks[under[areas[under].argmin()]]
            scores.append((mask & answer).sum() / (mask | answer).sum())
    assert np.mean(scores) > 0.85


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_family_stands_out_and_has_a_mask(family: object) -> None:
    counts = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        canvas = Canvas(rng, height=96, width=96)
        canvas.image[:] = hsv(float(rng.random()), 0.3, 0.6)
        before = canvas.image.copy()
        thing = family(Stage(rng, canvas.colour_at(0.5, 0.5, 0.3)))  # type: ignore[operator]
        canvas.add(thing, Frame(x=0.5, y=0.5, scale=0.4))
        masks = visible_masks(canvas).stack
        counts.append(len(masks))
        touched = np.abs(canvas.image - before).max(-1)
        for mask in masks:
            assert np.median(touched[mask]) > 0.05
    assert sum(counts) > 0


def test_what_is_hidden_has_no_mask() -> None:
    rng = np.random.default_rng(0)
    canvas = Canvas(rng, height=128, width=128)
    stage = Stage(rng)
    canvas.add(nature.pebble(stage), Frame(x=0.5, y=0.5, scale=0.1))
    assert len(visible_masks(canvas).stack) == 1
    canvas.add(nature.pebble(stage), Frame(x=0.5, y=0.5, scale=0.4))
    (mask,) = visible_masks(canvas).stack
    assert mask[64, 64]
    assert mask.sum() > 1000


def test_hsv_and_colour_distance() -> None:
    np.testing.assert_allclose(hsv(1 / 3, 1.0, 0.5), [0, 0.5, 0], atol=1e-9)
    np.testing.assert_allclose(hsv(7 / 6, 0.5, 1.0), [1, 1, 0.5], atol=1e-9)
    black, white = np.zeros(3), np.ones(3)
    assert distance(black, white) == pytest.approx(1.0)
    assert distance(white, white) == 0.0


def test_picked_colours_keep_their_distance() -> None:
    rng = np.random.default_rng(0)
    behind = [hsv(0.1, 0.5, 0.5)]
    gaps = [distance(pick(rng, VIVID, behind), behind[0]) for _ in range(200)]
    assert np.mean(np.array(gaps) >= CLEARLY_APART) > 0.97
