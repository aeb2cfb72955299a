"""The compiled pixel loops against closed forms, Pillow and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from data_tools.scenes import geometry as g
from data_tools.scenes.raster import bounds, coverage, largest_component, normals, soften


def _cover(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    return coverage(outline, np.array([len(outline)]), height, width)


def _area(outline: np.ndarray) -> float:
    x, y = outline.T
    return 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))


@pytest.mark.parametrize("seed", range(5))
def test_coverage_sums_to_the_area_of_the_polygon(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for outline in (g.blob(rng), g.polygon(rng, sides=5), g.star(points=5, inner=0.4)):
        placed = outline * rng.uniform(3, 15) + rng.uniform(24, 26, 2)
        assert _cover(placed, 50, 50).sum() == pytest.approx(_area(placed), rel=1e-5)


def test_coverage_of_a_box_is_exact_per_pixel() -> None:
    found = _cover(g.box(1.25, 0.5, 3.0, 2.0), 3, 4)
    np.testing.assert_allclose(
        found, [[0, 0.375, 0.5, 0], [0, 0.75, 1, 0], [0, 0, 0, 0]], atol=1e-6
    )


@pytest.mark.parametrize("seed", range(5))
def test_coverage_agrees_with_pillow_drawn_sixteen_times_larger(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Partly outside, so that clipping at all four sides is tried.
    outline = g.lumps(rng, count=6) * (14, 20) + rng.uniform(2, 28, 2)
    large = Image.new("L", (480, 480))
    corners = [(float(x), float(y)) for x, y in outline * 16 - 0.5]
    ImageDraw.Draw(large).polygon(corners, fill=255)
    expected = np.asarray(large.reduce(16), float) / 255
    assert np.abs(_cover(outline, 30, 30) - expected).max() < 0.12


def test_overlapping_polygons_unite() -> None:
    left, right = g.box(0, 0, 3, 2), g.box(2, 0, 5, 2)
    both = coverage(np.concatenate([left, right]), np.array([4, 8]), 2, 6)
    np.testing.assert_allclose(both, [[1, 1, 1, 1, 1, 0]] * 2, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_soften_is_three_uniform_filters(radius: int) -> None:
    image = np.random.default_rng(0).random((17, 23), np.float32)
    expected = image
    for _ in range(3):
        expected = ndimage.uniform_filter(expected, 2 * radius + 1, mode="constant")
    np.testing.assert_allclose(soften(image, radius), expected, atol=1e-5)


@pytest.mark.parametrize("radius", [2, 9, 20])
def test_normals_of_a_disc_point_outwards_alike_in_every_direction(radius: int) -> None:
    cover = _cover(g.ellipse(40, 40, 30, sides=200), 80, 80)
    field, cell, margin = normals(cover, radius)
    rows, columns = np.indices(field.shape[:2])
    out = np.stack([columns, rows], -1) + 0.5 - margin - 40 / cell
    steepness = np.hypot(*np.moveaxis(field, -1, 0))
    steep = steepness > 0.3
    unit = out[steep] / np.hypot(*out[steep].T)[:, None]
    assert steep.sum() > 20
    assert ((field[steep] * unit).sum(-1) / steepness[steep]).min() > 0.9
    assert steepness.max() == pytest.approx(1.0, abs=1e-4)


def test_a_body_without_bevel_is_flat() -> None:
    field, _, _ = normals(_cover(g.ellipse(10, 10, 6), 20, 20), 0)
    assert not field.any()


def test_bounds_are_the_extremes() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    np.testing.assert_array_equal(bounds(points), [*points.min(0), *points.max(0)])


@pytest.mark.parametrize("seed", range(4))
def test_largest_component_agrees_with_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.integers(-1, 3, (20, 16)).astype(np.int16)
    members = np.array([False, True, False, True])
    mask = np.isin(owner, (0, 2))
    labels, _ = ndimage.label(mask)
    area, largest, solid = largest_component(
        owner, members, np.array([0, 0, 20, 16]), np.empty(2 * owner.size, np.int64)
    )
    assert area == mask.sum()
    assert largest == np.bincount(labels[labels > 0]).max()
    assert solid == ndimage.binary_erosion(mask).sum()
