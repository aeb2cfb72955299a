"""Tiles cut while reading are those that `python -m data_tools.tile` writes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools import tile
from sam_train.data.config import DataConfig, check, tile_grid
from sam_train.data.datamodule import SamDataModule
from sam_train.data.shards.groups_file import groups_of
from sam_train.data.shards.reader import open_shards
from sam_train.data.tiles.grid import TileGrid
from sam_train.errors import UserError

GRID = TileGrid(size=64, overlap=16)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos larger than a tile, one smaller, one without objects; one object is a sliver away."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    draw = np.random.default_rng(5)
    for k, (height, width) in enumerate([(150, 200), (40, 50), (130, 64), (100, 100)]):
        pixels = draw.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
        labels = np.zeros((height, width), np.uint8)
        if k < 3:
            labels[5:30, 5:30], labels[20:38, 34:48] = 1, 2
        if k == 0:
            # Across many tiles; and 3 of 100 columns beyond the first tile's border.
            labels[60:110, 30:180], labels[120:149, 90:199] = 3, 4
        Image.fromarray(labels).save(folder / "masks" / f"{k}.png")
    return folder


def test_tiles_are_those_of_the_tool(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles"
    command = ["masks", "--images", str(scenes / "images"), "--masks", str(scenes / "masks")]
    assert tile.main([*command, "--out", str(out), "--size", "64", "--overlap", "16"]) == 0
    written = open_shards(str(out), option="data.train")
    cut = open_shards(f"masks:{scenes}", option="data.train", formats=True, tiles=GRID)
    assert len(cut) == len(written) > 10
    rows = (out / "tiles.tsv").read_text().splitlines()[1:]
    for k in range(len(cut)):
        _, scene, x, y, width, height, *_ = rows[k].split("\t")
        left, top = int(x), int(y)
        assert cut.key(k).endswith(f"/{scene}#x{x}y{y}")
        entry = cut.read(k)
        photo = np.asarray(Image.open(scenes / "images" / scene))
        expected = photo[top : top + int(height), left : left + int(width)]
        assert entry.pixels is not None
        assert np.array_equal(entry.pixels, expected)
        given = [each["segmentation"] for each in json.loads(entry.json)["annotations"]]
        kept = [e["segmentation"] for e in json.loads(written.read(k).json)["annotations"]]
        assert given == kept
        # The parts lie where the objects do.
        labels = np.asarray(Image.open(scenes / "masks" / scene))
        for segmentation in given:
            part = coco_mask.decode({**segmentation, "counts": segmentation["counts"].encode()})
            values = np.unique(
                labels[top : top + part.shape[0], left : left + part.shape[1]][part > 0]
            )
            assert len(values) == 1
            assert values[0] > 0


def test_tiles_of_a_photo_are_a_group(scenes: Path) -> None:
    cut = open_shards(f"masks:{scenes}", option="data.val", formats=True, tiles=GRID)
    groups = groups_of(cut, samples=len(cut))
    assert len(groups) == len(cut)
    for k in range(len(cut)):
        assert groups[k] == cut.key(k).partition("#")[0]
    whole = open_shards(f"masks:{scenes}", option="data.val", formats=True)
    assert groups_of(whole, samples=len(whole)) == {}


def test_training_reads_tiles_and_keeps_them_on_disk(scenes: Path, tmp_path: Path) -> None:
    batches = []
    for _ in range(2):
        cfg = DataConfig(
            train=f"masks:{scenes}", val=f"masks:{scenes}", tile=64, tile_overlap=16, batch_size=4,
            workers=0, disk_cache=str(tmp_path / "cache"),
        )  # fmt: skip
        data = SamDataModule(cfg, image_size=64, grid_size=32, seed=0, accumulate=1)
        data.setup("fit")
        batch = next(iter(data.train_dataloader()))
        batches.append(batch)
        assert int(batch.original_sizes.max()) <= 64
        assert sum(len(each.keys) for each in data.val_dataloader()) == len(data._val or [])
    assert batches[0].keys == batches[1].keys
    assert np.array_equal(batches[0].images, batches[1].images)
    assert np.array_equal(batches[0].masks, batches[1].masks)


def test_what_has_no_object_is_counted(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        cut = open_shards(f"masks:{scenes}", option="data.train", formats=True, tiles=GRID)
    assert "left out 1 image, no mask: 3.png" in caplog.text
    assert not any("3.png" in cut.key(k) for k in range(len(cut)))
    empty = tmp_path / "none"
    (empty / "images").mkdir(parents=True)
    (empty / "masks").mkdir()
    for part in ("images", "masks"):
        Image.new("L", (70, 70)).save(empty / part / "a.png")
    with pytest.raises(UserError, match="no tile with an object"):
        open_shards(f"masks:{empty}", option="data.train", formats=True, tiles=GRID)


def test_settings(tmp_path: Path) -> None:
    assert tile_grid(DataConfig()) is None
    assert tile_grid(DataConfig(tile=1024)) == TileGrid(size=1024, overlap=128)
    for wrong in ({"tile": 8}, {"tile": 64, "tile_overlap": 64}, {"tile": 64, "mode": "stream"}):
        with pytest.raises(UserError, match=r"data\.tile"):
            check(DataConfig(**wrong))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data_tools\.tile"):
        open_shards(str(tmp_path / "a.tar"), option="data.train", formats=True, tiles=GRID)
