"""Cityscapes' panoptic segments and BBBC038v1's nuclei, from files laid out as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.convert import main
from sam_train.data.formats.bbbc038 import Bbbc038
from sam_train.data.formats.cityscapes import Cityscapes
from sam_train.data.left_out import SkipImageError
from sam_train.errors import UserError

SIZE = (20, 30)


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """One photo: road, sky, two cars, a group of people, the ego vehicle and a bridge."""
    labels = np.full(SIZE, 7, dtype=np.int32)
    labels[:5] = 23
    labels[8:12, 2:8] = 26000
    labels[8:12, 10:15] = 26001
    labels[5:8, 20:28] = 24
    labels[18:] = 1
    labels[14:16, 20:25] = 15
    photo(tmp_path / "leftImg8bit/val/aachen/aachen_000000_000019_leftImg8bit.png")
    truth = tmp_path / "gtFine/val/aachen/aachen_000000_000019_gtFine_instanceIds.png"
    truth.parent.mkdir(parents=True)
    Image.fromarray(labels.astype(np.uint16)).save(truth)
    return tmp_path


def test_cityscapes_segments_of_the_panoptic_task(cityscapes: Path) -> None:
    listing = Cityscapes().list(cityscapes / "leftImg8bit/val", cityscapes / "gtFine/val")
    (record,) = listing.records
    assert record.name == "aachen/aachen_000000_000019_leftImg8bit.png"
    read = record.masks()
    areas = {m.name.split()[-1]: int(coco_mask.area(m.segmentation)) for m in read.masks}
    road = 20 * 30 - 5 * 30 - 4 * 6 - 4 * 5 - 3 * 8 - 2 * 30 - 2 * 5
    assert areas == {"7": road, "23": 150, "26000": 24, "26001": 20}
    ignored = "class that the evaluation ignores"
    assert [(skip.reason, skip.name.split()[-1]) for skip in read.skips] == [
        (ignored, "1"),
        (ignored, "15"),
        ("crowd", "24"),
    ]


def test_cityscapes_photos_that_cannot_be_used(cityscapes: Path, tmp_path: Path) -> None:
    folder = cityscapes / "leftImg8bit/val/aachen"
    photo(folder / "aachen_000001_000019_leftImg8bit.png")
    photo(folder / "notes.png")
    listing = Cityscapes().list(cityscapes / "leftImg8bit", cityscapes / "gtFine")
    assert [(skip.reason, Path(skip.name).name) for skip in listing.skips] == [
        ("no mask file", "aachen_000001_000019_leftImg8bit.png"),
        ("name does not end in _leftImg8bit", "notes.png"),
    ]
    truth = next((cityscapes / "gtFine").rglob("*.png"))
    truth.write_bytes(truth.read_bytes()[:60])
    with pytest.raises(SkipImageError, match="unreadable mask file"):
        listing.records[0].masks()
    with pytest.raises(UserError, match="--masks"):
        Cityscapes().list(cityscapes / "leftImg8bit", tmp_path / "absent")


def test_bbbc038_has_a_file_per_nucleus(tmp_path: Path) -> None:
    photo(tmp_path / "ab12/images/ab12.png")
    (tmp_path / "ab12/masks").mkdir()
    for k in range(3):
        mask = np.zeros(SIZE, dtype=np.uint8)
        mask[2 * k : 2 * k + 2, : k + 4] = 255
        Image.fromarray(mask).save(tmp_path / f"ab12/masks/n{k}.png")
    photo(tmp_path / "cd34/images/cd34.png")
    (tmp_path / "ef56").mkdir()
    listing = Bbbc038().list(tmp_path, tmp_path)
    (record,) = listing.records
    assert record.name == "ab12/images/ab12.png"
    areas = [int(coco_mask.area(m.segmentation)) for m in record.masks().masks]
    assert areas == [8, 10, 12]
    assert [(s.reason, s.name) for s in listing.skips] == [
        ("no mask file", "cd34"),
        ("no photo", "ef56"),
    ]


def test_both_convert(cityscapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    images, masks = cityscapes / "leftImg8bit/val", cityscapes / "gtFine/val"
    arguments = ["cityscapes", "--images", str(images), "--masks", str(masks), "--out", str(out)]
    assert main([*arguments, "--workers", "0"]) == 0
    assert "1 image, 4 masks; skipped 0 images and 3 masks" in capsys.readouterr().out
