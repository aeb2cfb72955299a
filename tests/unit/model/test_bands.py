"""A model of more than three bands: its first tokens and its photos, from file to embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.jpeg import read_shown
from sam_train.data.photos.rule import rule_of
from sam_train.data.photos.show import show_array
from sam_train.errors import UserError
from sam_train.finetuning.measure import shipped_scenes
from sam_train.model.build import build_from_config
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise, load_whole
from sam_train.model.checkpoints.state_dicts import widen_patch_kernel
from sam_train.model.config import ModelConfig, photo_rule
from sam_train.model.predictor import Predictor
from sam_train.model.sam import Sam

BANDS = [1, 2, 3, 4, 5]


def tiny(bands: list[int], window: list[float] | None = None) -> tuple[Sam, ModelConfig]:
    cfg = ModelConfig(name="vit_t", image_size=64, bands=bands, window=window or [])
    torch.manual_seed(0)
    return build_from_config(cfg).eval(), cfg


@pytest.fixture
def spectral(tmp_path: Path) -> Path:
    """Two 16-bit TIFFs of five bands, a JPEG that has no such bands, and label maps."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for k in range(2):
        stack = np.random.default_rng(k).integers(0, 5000, (40, 64, 5)).astype(np.uint16)
        tifffile.imwrite(
            tmp_path / "images" / f"{k}.tif", stack, photometric="minisblack", planarconfig="contig"
        )
    Image.new("RGB", (64, 40)).save(tmp_path / "images" / "2.jpg")
    labels = np.zeros((40, 64), np.uint8)
    labels[4:20, 4:20], labels[22:38, 30:60] = 1, 2
    for k in range(3):
        Image.fromarray(labels).save(tmp_path / "masks" / f"{k}.png")
    return tmp_path


def test_equal_bands_give_the_tokens_of_a_grey_photo(tmp_path: Path) -> None:
    rgb, _ = tiny([])
    path = tmp_path / "rgb.pth"
    torch.save(rgb.state_dict(), path)
    wide, _ = tiny(BANDS)
    report = initialise(wide, str(path), InitConfig())
    assert [entry.name for entry in report.resized] == ["image_encoder.patch_embed.proj.weight"]
    grey = torch.randn(2, 1, 64, 64)
    kernel = wide.image_encoder.patch_embed
    given = kernel(grey.expand(-1, 5, -1, -1))
    before = rgb.image_encoder.patch_embed(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(given, before, atol=1e-5)
    # Other numbers of bands are another model, not a resolution.
    four, _ = tiny(BANDS[:4])
    torch.save(wide.state_dict(), path)
    with pytest.raises(UserError):
        load_whole(four, str(path), InitConfig())


def test_widening_keeps_the_size_of_activations() -> None:
    kernel = torch.randn(8, 3, 4, 4)
    for channels in (4, 9):
        wide = widen_patch_kernel(kernel, channels)
        assert wide.shape == (8, channels, 4, 4)
        assert torch.allclose(wide.sum(1), kernel.sum(1), atol=1e-5)


def test_chosen_bands_become_colours(spectral: Path) -> None:
    path = spectral / "images" / "0.tif"
    stack = tifffile.imread(path)
    shown = read_shown(path, rule=rule_of([0, 5000], bands=[5, 3, 1])).pixels
    expected = np.rint(stack[..., [4, 2, 0]] / 5000 * 255)
    assert np.abs(shown - expected).max() <= 1
    all_five = read_shown(path, rule=rule_of([0, 5000], bands=BANDS)).pixels
    assert all_five.shape == (40, 64, 5)
    assert np.array_equal(all_five[..., [4, 2, 0]], shown)
    with pytest.raises(SkipImageError, match="lacks a band"):
        read_shown(spectral / "images" / "2.jpg", rule=rule_of([], bands=BANDS))


@pytest.mark.parametrize("jitter", [[], [0.5, 1.0]])
def test_five_bands_from_file_to_embedding(
    spectral: Path, tmp_path: Path, jitter: list[float]
) -> None:
    sam, cfg = tiny(BANDS)
    batches = []
    for _ in range(2):
        data = SamDataModule(
            DataConfig(
                train=f"masks:{spectral}", batch_size=2, workers=0, scale_jitter=jitter,
                max_skip_fraction=1.0, disk_cache=str(tmp_path / "cache"),
            ),
            image_size=64, grid_size=32, seed=0, accumulate=1, photos=photo_rule(cfg),
        )  # fmt: skip
        window = data.find_window()
        assert len(window) == 10
        data.setup("fit")
        batches.append(next(iter(data.train_dataloader())))
    batch = batches[0]
    assert torch.equal(batch.images, batches[1].images)
    assert batch.images.shape == (2, 5, 64, 64)
    if not jitter:
        k = int(batch.keys[0][-5])
        stack = tifffile.imread(spectral / "images" / f"{k}.tif")
        shown = show_array(stack, rule_of(window, bands=BANDS))
        assert np.array_equal(batch.images[0, :, :40].permute(1, 2, 0), shown)
    with torch.no_grad():
        assert sam.encode(batch.images, batch.image_sizes).shape[0] == 2


def test_the_predictor_takes_the_values_of_a_file(spectral: Path) -> None:
    window = [0.0, 5000.0]
    sam, cfg = tiny(BANDS, window)
    stack = tifffile.imread(spectral / "images" / "0.tif")
    asked, by_hand = (Predictor(sam, photos=photo_rule(cfg)) for _ in range(2))
    asked.set_image(stack)
    by_hand.set_image(show_array(stack, rule_of(window, bands=BANDS)))
    points = {"points": np.array([[10, 10]]), "labels": np.array([1])}
    assert np.array_equal(asked.predict(**points).scores, by_hand.predict(**points).scores)
    with pytest.raises(ValueError, match="lacks a band"):
        asked.set_image(stack[..., :4])


@pytest.mark.parametrize("mode", ["indexed", "stream"])
def test_photos_that_cannot_have_the_bands_are_refused(mode: str) -> None:
    data = SamDataModule(
        DataConfig(train=str(shipped_scenes()), batch_size=2, workers=0, mode=mode),
        image_size=64, grid_size=32, seed=0, accumulate=1, photos=rule_of([], bands=BANDS),
    )  # fmt: skip
    with pytest.raises(UserError, match="three bands"):
        data.setup("fit")


def test_models_that_take_three() -> None:
    with pytest.raises(UserError, match="only a ViT"):
        build_from_config(ModelConfig(name="conv_t", bands=BANDS))
    with pytest.raises(UserError, match="counted from 1"):
        photo_rule(ModelConfig(bands=[0, 1]))
