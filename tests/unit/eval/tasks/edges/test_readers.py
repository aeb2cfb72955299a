from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from sam_train.errors import UserError
from sam_train.eval.tasks.edges.readers import (
    pair_files,
    read_boundary_maps,
    read_grey,
    read_ground_truth,
    segmentation_boundaries,
    thresholds_between,
)

GREY = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_grey_however_it_was_saved(tmp_path: Path, mode: str) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "a.png")
    assert np.array_equal(read_grey(tmp_path / "a.png"), GREY / 255)


def test_sixteen_and_one_bits(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.allclose(read_grey(tmp_path / "a.png"), GREY / 255)
    Image.fromarray(GREY > 100).save(tmp_path / "b.png")
    assert np.array_equal(read_grey(tmp_path / "b.png"), (GREY > 100).astype(float))


def test_transparency_does_not_dim(tmp_path: Path) -> None:
    pixels = np.dstack([GREY, GREY, GREY, GREY[::-1, ::-1]])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_grey(tmp_path / "a.png"), GREY / 255)


def test_colours_and_broken_files_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([GREY, GREY, 255 - GREY])).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is a colour picture"):
        read_grey(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        read_grey(tmp_path / "b.png")


def test_thresholds_as_matlab_has_them() -> None:
    values = thresholds_between(99)
    assert values[0] == 0.01
    assert values[-1] == 0.99
    assert np.allclose(np.diff(values), 0.01)
    assert thresholds_between(1).tolist() == [0.5]
    assert thresholds_between(5).tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_a_pixel_on_the_threshold_counts(tmp_path: Path) -> None:
    Image.fromarray(np.array([[127, 128]], dtype=np.uint8)).save(tmp_path / "a.png")
    savemat(tmp_path / "b.mat", {"ucm2": np.full((3, 3), 0.5)})
    assert read_boundary_maps(tmp_path / "a.png", thresholds=1).masks[0].tolist() == [[False, True]]
    assert read_boundary_maps(tmp_path / "b.mat", thresholds=1).masks[0].tolist() == [[True]]


def test_odd_pixels_of_a_contour_map(tmp_path: Path) -> None:
    ucm2 = np.zeros((5, 7))
    ucm2[2::2, 2::2] = [[0.1, 0.9, 0.1], [0.9, 0.1, 0.9]]
    savemat(tmp_path / "a.mat", {"ucm2": ucm2})
    maps = read_boundary_maps(tmp_path / "a.mat", thresholds=1)
    assert maps.masks[0].tolist() == [[False, True, False], [True, False, True]]
    savemat(tmp_path / "b.mat", {"ucm2": ucm2[:, :6]})
    with pytest.raises(UserError, match="2 \\* height"):
        read_boundary_maps(tmp_path / "b.mat", thresholds=1)


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"ucm2": np.full((3, 3), np.nan)})
    with pytest.raises(UserError, match="not finite"):
        read_boundary_maps(tmp_path / "a.mat", thresholds=1)
    savemat(tmp_path / "b.mat", {"edges": np.zeros((3, 3))})
    with pytest.raises(UserError, match="neither ucm2 nor segs"):
        read_boundary_maps(tmp_path / "b.mat", thresholds=1)


def test_boundaries_of_labels() -> None:
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert segmentation_boundaries(labels).astype(int).tolist() == [
        [0, 1, 0, 0],
        [0, 1, 1, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_boundaries_run_into_the_border() -> None:
    labels = np.array([[1, 2], [1, 2]])
    assert segmentation_boundaries(labels).astype(int).tolist() == [[1, 0], [1, 0]]
    assert segmentation_boundaries(labels.T).astype(int).tolist() == [[1, 1], [0, 0]]


def test_ground_truth_that_is_none(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"something": np.zeros(3)})
    with pytest.raises(UserError, match="no BSDS ground truth"):
        read_ground_truth(tmp_path / "a.mat")
    (tmp_path / "b.mat").write_bytes(b"no MATLAB at all")
    with pytest.raises(UserError, match="cannot be read as a MATLAB file"):
        read_ground_truth(tmp_path / "b.mat")


def test_every_ground_truth_needs_a_map(tmp_path: Path) -> None:
    maps, truth = tmp_path / "maps", tmp_path / "truth"
    with pytest.raises(UserError, match="not a folder"):
        pair_files(maps, truth)
    maps.mkdir()
    truth.mkdir()
    with pytest.raises(UserError, match=r"holds no \.mat"):
        pair_files(maps, truth)
    for name in ("1", "2"):
        (truth / f"{name}.mat").touch()
    (maps / "1.png").touch()
    with pytest.raises(UserError, match="1 of 2 ground truths, 2 among them"):
        pair_files(maps, truth)
    for name in ("2.png", "2.mat", "3.png"):
        (maps / name).touch()
    assert [pair.edges.name for pair in pair_files(maps, truth)] == ["1.png", "2.mat"]
