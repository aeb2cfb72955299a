"""One window for all photos of a data set: found once, recorded, and applied wherever they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import pages
from sam_train.data.photos.jpeg import read_shown
from sam_train.data.photos.rule import PhotoRule, rule_of
from sam_train.data.photos.show import show_array
from sam_train.data.photos.window import find_window
from sam_train.errors import UserError

HIGH = 60_000


def oracle(values: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, Any]:
    scaled = (values.astype(np.float64) - low) / (high - low) * 255
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)


@pytest.fixture
def dim_and_bright(tmp_path: Path) -> Path:
    """Two 16-bit photos of which one is ten times as bright, and label maps."""
    folder = tmp_path / "cells"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for k, factor in enumerate((1, 10)):
        pixels = (np.arange(40 * 50).reshape(40, 50) * factor).astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"{k}.tif", pixels)
        labels = np.zeros((40, 50), np.uint8)
        labels[10:30, 10:30] = 1
        Image.fromarray(labels).save(folder / "masks" / f"{k}.png")
    return folder


def test_a_window_is_of_the_pooled_values(dim_and_bright: Path) -> None:
    photos = sorted((dim_and_bright / "images").iterdir())
    pooled = np.concatenate([tifffile.imread(path).ravel() for path in photos])
    low, high = find_window(photos)
    assert low == np.percentile(pooled, 0.5, method="higher")
    assert high == np.percentile(pooled, 99.5, method="lower")
    # The brightness of one photo beside the other's survives, as it did not before.
    shown = [read_shown(path, rule=rule_of([low, high])).pixels for path in photos]
    for path, pixels in zip(photos, shown, strict=True):
        assert np.array_equal(pixels[..., 1], oracle(tifffile.imread(path), low, high))
    assert shown[0].mean() < 0.2 * shown[1].mean()


def test_the_training_set_decides_and_validation_follows(dim_and_bright: Path) -> None:
    cfg = DataConfig(train=f"masks:{dim_and_bright}", val=f"masks:{dim_and_bright}")
    data = SamDataModule(cfg, image_size=50, grid_size=25, seed=0, accumulate=1)
    window = data.find_window()
    data.setup("fit")
    assert data._train is not None
    assert data._val is not None
    for shards in (data._train, data._val):
        pixels = shards.read(0).pixels
        assert pixels is not None
        stored = tifffile.imread(dim_and_bright / "images" / "0.tif")
        assert np.array_equal(pixels[..., 0], oracle(stored, *window))


def test_eight_bits_need_no_window(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(90, 110, (30, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", pixels)
    photos = [tmp_path / "a.png", tmp_path / "b.tif"]
    assert find_window(photos) == []
    for photo in photos:
        assert np.array_equal(read_shown(photo, rule=rule_of([100, 105])).pixels, pixels)


def test_each_band_of_a_microscope_has_its_own(tmp_path: Path) -> None:
    stack = np.stack([np.arange(900), 1000 + 3 * np.arange(900)]).reshape(2, 30, 30)
    tifffile.imwrite(tmp_path / "a.tif", stack.astype(np.uint16), imagej=True, metadata={
        "axes": "CYX"
    })  # fmt: skip
    window = find_window(pages(tmp_path / "a.tif"))
    # Magenta and green: the first band is shown twice.
    assert len(window) == 6
    assert window[:2] == window[4:] == [5.0, 894.0]
    assert window[2:4] == [1000 + 3 * 5.0, 1000 + 3 * 894.0]


def test_floats_with_gaps_and_damaged_files(tmp_path: Path) -> None:
    values = np.linspace(-1000, 1000, 2500, dtype=np.float32).reshape(50, 50)
    values[0, 0], values[0, 1], values[3, 3] = np.nan, np.inf, -np.inf
    tifffile.imwrite(tmp_path / "a.tif", values)
    (tmp_path / "b.tif").write_bytes(b"II*\0 no more")
    low, high = find_window([tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "missing.tif"])
    finite = values[np.isfinite(values)]
    assert low == np.percentile(finite, 0.5, method="higher")
    assert high == np.percentile(finite, 99.5, method="lower")
    # Numbers given by hand, as for CT.
    shown = read_shown(tmp_path / "a.tif", rule=rule_of([-160, 240])).pixels[..., 0]
    expected = oracle(np.where(np.isfinite(values), values, -160), -160, 240)
    assert np.abs(shown.astype(int) - expected).max() <= 1


def test_constant_photos_are_no_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((20, 20), 7, np.uint16))
    tifffile.imwrite(tmp_path / "nan.tif", np.full((20, 20), np.nan, np.float32))
    assert find_window([tmp_path / "a.tif"]) == [7.0, 7.0]
    assert not read_shown(tmp_path / "a.tif", rule=rule_of([7, 7])).pixels.any()
    assert find_window([tmp_path / "nan.tif"]) == [0.0, 0.0]


def test_the_sample_is_spread_over_the_listing(tmp_path: Path) -> None:
    for k in range(70):
        tifffile.imwrite(tmp_path / f"{k:02d}.tif", np.full((4, 4), k, np.uint16))
    photos = sorted(tmp_path.iterdir())
    low, high = find_window(photos)
    assert [low, high] == find_window(photos)
    assert low <= 2
    assert high >= 67


@pytest.mark.parametrize("window", [[1.0], [5, 1], [0, float("nan")], [0, 1, 2]])
def test_numbers_that_are_no_window(window: list[float]) -> None:
    with pytest.raises(UserError, match=r"model\.window"):
        rule_of(window)


def test_a_window_of_other_bands_skips_the_photo() -> None:
    stack = np.zeros((5, 5, 2), np.uint16)
    with pytest.raises(SkipImageError, match="bands"):
        show_array(stack, rule_of([0, 1, 0, 1]))


def test_an_array_is_shown_as_its_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, HIGH, (30, 40, 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    for rule in (PhotoRule(), rule_of([100, 50_000])):
        assert np.array_equal(
            show_array(pixels, rule), read_shown(tmp_path / "a.tif", rule=rule).pixels
        )
