"""A look at photos of which some cannot be used: each is named once, with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam_train.data.shards.reader import open_shards
from sam_train.finetuning.look import Look, look

SIDE = 64


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Look:
    """Six photos: one cut off, one with a mask of another size, one without an object."""
    folder = tmp_path_factory.mktemp("mine") / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for k in range(6):
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.jpg")
        labels = np.zeros((SIDE, SIDE), dtype=np.uint8)
        labels[8:24, 8:40] = 1
        Image.fromarray(labels).save(folder / "masks" / f"{k}.png")
    cut = folder / "images" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:1500])
    Image.fromarray(np.ones((32, 32), dtype=np.uint8)).save(folder / "masks" / "2.png")
    Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint8)).save(folder / "masks" / "3.png")
    shards = open_shards(f"masks:{folder}", option="data.train", formats=True)
    return look(shards, source="mine", max_area_fraction=0.9)


def test_a_photo_that_is_cut_off_is_not_usable(found: Look) -> None:
    assert [one.name for one in found.seen] == ["set/0.jpg", "set/4.jpg", "set/5.jpg"]
    assert found.unusable == {"set/1.jpg", "set/2.jpg", "set/3.jpg"}
    assert all(one.size == (SIDE, SIDE) for one in found.seen)


def test_each_is_named_with_the_reason_that_its_masks_were_lost_for(found: Look) -> None:
    lines = [line for line in found.lines() if line.startswith("unusable:")]
    assert len(lines) == 3
    sizes = next(line for line in lines if "size differs" in line)
    assert sizes == (
        "unusable: 1 image, no mask left, size differs from the image's: "
        "2.jpg: 2.png (32 x 32, image 64 x 64)"
    )
    assert "unusable: 1 image, no mask, empty: 3.jpg: 3.png" in lines
    assert sum("1.jpg" in line for line in lines) == 1
