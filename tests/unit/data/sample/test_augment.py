"""Flips against samples of photos that numpy flipped beforehand; colour against Pillow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance
from pycocotools import mask as coco

from sam_train.data.config import DataConfig
from sam_train.data.sample.augment import _coloured
from sam_train.data.sample.dataset import draw_sample
from sam_train.data.sample.decode import BadSample
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.types import Sample

S, R = 48, 12
KEY = (7, 3, 0)
FLIPS = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
SIZES = [(31, 45), (45, 31), (48, 48), (97, 60)]


def write(folder: Path, photo: npt.NDArray[np.uint8], masks: npt.NDArray[np.uint8]) -> Path:
    """Write one photo with its masks as SA-1B's pair."""
    folder.mkdir(parents=True)
    Image.fromarray(photo).save(folder / "sa_1.jpg", quality=100, subsampling=0)
    rles = [coco.encode(np.asfortranarray(mask)) for mask in masks]
    annotations = [
        {"segmentation": {"size": r["size"], "counts": r["counts"].decode()}} for r in rles
    ]
    (folder / "sa_1.json").write_text(json.dumps({"annotations": annotations}))
    return folder


def sample(folder: Path, cfg: DataConfig) -> Sample:
    scenes = Scenes.for_training(
        open_shards(str(folder), option="data.train"),
        cfg,
        image_size=S,
        grid_size=R,
        skips=Skips(workers=0, max_fraction=1.0),
    )
    scene = scenes.get(0, draw_key=KEY)
    sampling = cfg.mask_sampling
    return draw_sample(
        scene,
        key="k",
        position=0,
        draw_key=KEY,
        limit=None,
        grid_size=R,
        mask_sampling=sampling,
    )


@pytest.mark.parametrize("mask_sampling", ["nearest", "area"])
@pytest.mark.parametrize(("hflip", "vflip"), FLIPS)
@pytest.mark.parametrize("size", SIZES)
def test_a_flipped_sample_is_that_of_the_flipped_photo(
    tmp_path: Path, size: tuple[int, int], hflip: float, vflip: float, mask_sampling: str
) -> None:
    random = np.random.default_rng(size[0])
    rows, columns = np.mgrid[: size[0], : size[1]]
    # Smooth, because a JPEG of the flipped photo is not the flipped JPEG to the last level.
    photo = np.stack([rows * 2, columns * 2, rows + columns], axis=-1).astype(np.uint8)
    masks = np.stack(
        [
            (rows - y) ** 2 + (columns - x) ** 2 <= r**2
            for y, x, r in random.uniform((0, 0, 4), (*size, 14), (6, 3))
        ]
    ).astype(np.uint8)
    order = (slice(None, None, -1 if vflip else 1), slice(None, None, -1 if hflip else 1))
    plain = write(tmp_path / "plain", photo, masks)
    turned = write(tmp_path / "turned", photo[order], np.stack([mask[order] for mask in masks]))
    cfg = DataConfig(mask_sampling=mask_sampling)
    expected = sample(turned, cfg)
    ours = sample(plain, DataConfig(mask_sampling=mask_sampling, hflip=hflip, vflip=vflip))
    for name in ("masks", "points", "boxes", "mask_ids"):
        assert np.array_equal(getattr(ours, name), getattr(expected, name)), name
    difference = np.abs(ours.image.astype(int) - expected.image.astype(int))
    # The JPEG and the resize round on the other side; a photo that was not flipped is 60 off.
    assert difference.max() <= 8


def test_the_share_of_flips_is_the_probability_and_any_order_draws_the_same(
    tmp_path: Path,
) -> None:
    photo = np.zeros((9, 9, 3), dtype=np.uint8)
    masks = np.zeros((1, 9, 9), dtype=np.uint8)
    masks[0, 1:4, 5:9] = 1
    folder = write(tmp_path / "one", photo, masks)
    shards = open_shards(str(folder), option="data.train")
    scenes = Scenes.for_training(
        shards,
        DataConfig(hflip=0.25, cache=True),
        image_size=S,
        grid_size=R,
        skips=Skips(workers=0, max_fraction=1.0),
    )
    keys = [(0, epoch, 0) for epoch in range(400)]
    left = [int(scenes.get(0, draw_key=key).runs.extents[0, 0]) for key in keys]
    assert set(left) == {5, 0}
    # 100 of 400 expected, with a standard deviation of 8.7.
    assert 70 < left.count(0) < 130
    again = [int(scenes.get(0, draw_key=key).runs.extents[0, 0]) for key in reversed(keys)]
    assert again[::-1] == left


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_each_factor_of_colour_is_pillows(factor: float) -> None:
    random = np.random.default_rng(0)
    photo = random.integers(40, 180, (20, 30, 3)).astype(np.uint8)
    picture = Image.fromarray(photo)
    for name, ours in (
        ("Brightness", _coloured(photo, factor, contrast=1, mix=1)),
        ("Contrast", _coloured(photo, 1, contrast=factor, mix=1)),
        ("Color", _coloured(photo, 1, contrast=1, mix=factor)),
    ):
        theirs = np.asarray(getattr(ImageEnhance, name)(picture).enhance(factor))
        # Pillow rounds grey and the result down.
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2, name


def test_bands_that_are_no_colours_weigh_the_same() -> None:
    photo = np.random.default_rng(3).integers(0, 256, (6, 7, 5), dtype=np.uint8)
    assert np.array_equal(_coloured(photo, 1, contrast=1, mix=1), photo)
    grey = _coloured(photo, 1, contrast=1, mix=0)
    assert np.abs(grey.astype(int) - photo.mean(axis=2, keepdims=True)).max() <= 0.501


def test_colour_leaves_masks_alone_and_zero_leaves_the_photo(tmp_path: Path) -> None:
    photo = np.full((20, 20, 3), (90, 120, 60), dtype=np.uint8)
    masks = np.ones((1, 20, 20), dtype=np.uint8)
    masks[0, :10] = 0
    folder = write(tmp_path / "one", photo, masks)
    plain, coloured = sample(folder, DataConfig()), sample(folder, DataConfig(colour=0.4))
    assert np.array_equal(plain.masks, coloured.masks)
    assert np.abs(plain.image.astype(int) - coloured.image.astype(int)).max() > 5
    assert np.array_equal(sample(folder, DataConfig(colour=0.0)).image, plain.image)


def test_a_share_of_the_photos_becomes_grey(tmp_path: Path) -> None:
    photo = np.full((20, 20, 3), (90, 120, 60), dtype=np.uint8)
    folder = write(tmp_path / "one", photo, np.ones((1, 20, 20), dtype=np.uint8))
    scenes = Scenes.for_training(
        open_shards(str(folder), option="data.train"),
        DataConfig(colour=0.8, max_area_fraction=1.0, cache=True),
        image_size=S,
        grid_size=R,
        skips=Skips(workers=0, max_fraction=1.0),
    )
    images = [scenes.get(0, draw_key=(0, epoch, 0)).image for epoch in range(400)]
    grey = sum(np.ptp(image.astype(int), axis=-1).max() == 0 for image in images)
    # A fifth of 400 expected, with a standard deviation of 8.
    assert 50 < grey < 110


def test_a_photo_whose_masks_only_the_flip_shows_is_drawn(tmp_path: Path) -> None:
    """A pixel between the cells' centres lies on one in the mirrored photo."""
    masks = np.zeros((1, 48, 48), dtype=np.uint8)
    # Cells are 4 pixels wide and sample pixel 4 j + 2; mirrored, column 45 is column 2.
    masks[0, 2, 45] = 1
    folder = write(tmp_path / "one", np.zeros((48, 48, 3), dtype=np.uint8), masks)
    with pytest.raises(BadSample, match="none of its 1 masks has a cell"):
        sample(folder, DataConfig())
    found = sample(folder, DataConfig(hflip=1.0))
    assert np.argwhere(found.masks).tolist() == [[0, 0, 0]]
