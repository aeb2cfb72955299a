"""Mask embeddings by what must hold of them, neighbours by brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

import sam_train
from data_tools.scenes import close_up
from sam_train.errors import UserError
from sam_train.eval.tasks.probe.config import ProbeConfig
from sam_train.eval.tasks.probe.embed import Crop, cut_out, embed_masks
from sam_train.eval.tasks.probe.nearest import agreement, nearest, usual_similarity
from sam_train.eval.tasks.probe.picture import Cell, draw_neighbours
from sam_train.model import Sam
from sam_train.model.load import load_sam
from sam_train.settings.sections import check_section

NANO = Path(sam_train.__file__).parent / "assets" / "nano.safetensors"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nano() -> Sam:
    return load_sam(NANO)


@pytest.fixture(scope="module")
def crops() -> list[Crop]:
    scene = close_up(77, 1, height=120, width=170, zoom=2.0)
    largest = sorted(scene.masks, key=lambda mask: -mask.sum())[:3]
    return [cut_out(scene.image, mask.astype(bool), margin=0.1) for mask in largest]


def test_a_cut_is_the_grown_box_inside_the_photo() -> None:
    image = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    mask = np.zeros((40, 60), dtype=bool)
    mask[2:22, 30:60] = True
    crop = cut_out(image, mask, margin=0.1)
    assert crop.mask.shape == (25, 33)
    assert np.array_equal(crop.image, image[0:25, 27:60])
    assert crop.mask.sum() == 20 * 30


def test_a_photo_and_its_mirror_image_are_the_same(nano: Sam, crops: list[Crop]) -> None:
    vectors = embed_masks(nano, crops, batch=4)
    mirrored = embed_masks(nano, [crop.mirrored for crop in crops], batch=4)
    assert torch.allclose(vectors, mirrored, atol=1e-5)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(crops)))
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-3)


def test_how_many_at_once_changes_rounding_at_most(nano: Sam, crops: list[Crop]) -> None:
    alone = [embed_masks(nano, [crop], batch=1) for crop in crops]
    together = embed_masks(nano, crops, batch=5)
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)


@torch.no_grad()
def test_a_vector_is_the_mean_of_the_cells_under_the_mask(nano: Sam) -> None:
    """A square photo of the model's own size, a mask of whole cells: no resampling anywhere."""
    S = nano.image_size
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (S, S, 3), dtype=np.uint8)
    mask = np.zeros((S, S), dtype=bool)
    patch = S // nano.prompt_encoder.grid
    mask[: 2 * patch, patch : 4 * patch] = True
    views = torch.from_numpy(np.stack([image, image[:, ::-1]])).permute(0, 3, 1, 2)
    cells = nano.encode(views.contiguous(), torch.tensor([[S, S], [S, S]]))
    one = cells[0, :, :2, 1:4].mean((1, 2))
    other = cells[1].flip(2)[:, :2, 1:4].mean((1, 2))
    expected = torch.nn.functional.normalize(one + other, dim=0)
    found = embed_masks(nano, [Crop(image=image, mask=mask)], batch=2)
    assert torch.allclose(found[0], expected, atol=1e-5)


def test_a_mask_of_one_pixel_has_a_vector(nano: Sam) -> None:
    image = np.full((900, 400, 3), 90, dtype=np.uint8)
    mask = np.zeros((900, 400), dtype=bool)
    mask[899, 0] = True
    thin = Crop(image=image, mask=mask)
    assert embed_masks(nano, [thin, cut_out(image, mask, margin=0.0)], batch=4).isfinite().all()


@pytest.fixture(scope="module")
def space() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, rng.integers(0, 9, 40)


def test_neighbours_are_scipys(space: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, photos = space
    found = nearest(vectors, photos, np.arange(40), count=5)
    distances = cdist(vectors, vectors, "cosine")
    for query in range(40):
        expected: list[int] = []
        for other in np.argsort(distances[query]):
            if photos[other] not in [photos[query], *photos[expected]]:
                expected.append(int(other))
        assert found.index[query].tolist() == expected[:5]
        assert np.allclose(found.similarity[query], 1 - distances[query, expected[:5]], atol=1e-5)


def test_fewer_photos_than_neighbours(space: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, photos = space
    found = nearest(vectors, photos % 3, np.arange(40), count=4)
    assert (found.index[:, :2] >= 0).all()
    assert (found.index[:, 2:] == -1).all()
    alone = nearest(vectors, np.zeros(40, dtype=np.int64), np.arange(40), count=2)
    assert (alone.index == -1).all()


def test_the_usual_similarity_is_the_mean_of_all_pairs(
    space: tuple[np.ndarray, np.ndarray],
) -> None:
    vectors, photos = space
    apart = photos[:, None] != photos[None]
    assert usual_similarity(vectors, photos) == pytest.approx((vectors @ vectors.T)[apart].mean())
    assert np.isnan(usual_similarity(vectors, np.zeros(40, dtype=np.int64)))


def test_agreement_beside_chance() -> None:
    """Three photos; the neighbours of the first two masks are each other's, by construction."""
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], dtype=np.float32)
    photos = np.array([0, 1, 2, 0])
    found = nearest(vectors, photos, np.arange(4), count=1)
    assert found.index[:, 0].tolist() == [1, 0, 3, 2]
    agreed = agreement(["cat", "cat", "dog", "cat"], photos, found)
    assert agreed is not None
    assert (agreed.masks, agreed.share) == (4, 0.5)
    # Cats of other photos for each: 1 of 2, 2 of 3, 0 dogs of 3, 1 of 2.
    assert agreed.chance == pytest.approx((1 / 2 + 2 / 3 + 0 + 1 / 2) / 4)
    partly = agreement(["cat", "cat", None, None], photos, found)
    assert partly is not None
    assert (partly.masks, partly.share) == (2, 1.0)
    assert agreement([None] * 4, photos, found) is None


def test_the_picture_has_a_row_for_each_query(crops: list[Crop], tmp_path: Path) -> None:
    out = tmp_path / "rows.png"
    heights = []
    for rows in (1, 3):
        cells = [Cell(crop=crop, text="0.912 a very long name of a group") for crop in crops]
        draw_neighbours([cells] * rows, out, title="rows")
        with Image.open(out) as image:
            heights.append(image.height)
            assert (255, 170, 0) in {colour for _, colour in image.getcolors(1 << 20) or []}
    assert heights[1] > 2 * heights[0]


@pytest.mark.parametrize("setting", ["masks_per_image", "batch", "queries", "neighbours"])
def test_numbers_that_mean_nothing(setting: str) -> None:
    with pytest.raises(UserError, match=f"probe.{setting}=0"):
        check_section(ProbeConfig(**{setting: 0}))
