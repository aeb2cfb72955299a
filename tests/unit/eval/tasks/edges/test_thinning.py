import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from sam_train.eval.tasks.edges.thinning import thin

skimage_morphology = pytest.importorskip("skimage.morphology", reason="scikit-image is absent")


def blobs(seed: int) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).random((61, 83)), 2.0) > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_equals_scikit_image_on_thick_shapes(seed: int) -> None:
    mask = blobs(seed)
    thinned = thin(mask)
    assert np.array_equal(thinned, skimage_morphology.thin(mask))
    assert 0 < thinned.sum() < mask.sum() / 2


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9, 1.0])
def test_equals_scikit_image_on_noise(density: float) -> None:
    mask = np.random.default_rng(7).random((40, 57)) < density
    assert np.array_equal(thin(mask), skimage_morphology.thin(mask))


def test_keeps_the_number_of_pieces_and_is_idempotent() -> None:
    mask = blobs(11)
    thinned = thin(mask)
    eight = np.ones((3, 3))
    assert label(thinned, eight)[1] == label(mask, eight)[1]
    assert np.array_equal(thin(thinned), thinned)


def test_memory_order_does_not_matter_and_the_input_stays() -> None:
    mask = blobs(3)
    column_major = np.asfortranarray(mask)
    assert np.array_equal(thin(column_major), thin(mask))
    assert np.array_equal(column_major, blobs(3))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_slim_maps(shape: tuple[int, int]) -> None:
    mask = np.ones(shape, dtype=bool)
    assert np.array_equal(thin(mask), skimage_morphology.thin(mask))
    assert not thin(np.zeros(shape, dtype=bool)).any()
