"""`python -m data_tools.view`: every mask where pycocotools has it, and no sample ends a sheet."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.view import main
from sam_train.data.sample.draw import OPACITY, colour, draw_picture
from sam_train.data.shards.writer import annotate_masks

H, W = 60, 80
GREY = 100


def sample() -> tuple[bytes, dict[str, object]]:
    """A grey photo; a large mask first, a small one on top of it, one that cannot be drawn."""
    stream = io.BytesIO()
    Image.new("RGB", (W, H), (GREY, GREY, GREY)).save(stream, "JPEG", quality=100)
    masks = np.zeros((3, H, W), dtype=bool)
    masks[0, 20:30, 20:35] = True
    masks[1, 10:50, 10:70] = True
    masks[2, 0, 0] = True
    annotations = annotate_masks(masks, first_id=1)
    annotations[2]["segmentation"]["counts"] = "~"
    image = {"image_id": 1, "width": W, "height": H, "file_name": "sa_1.jpg"}
    return stream.getvalue(), {"image": image, "annotations": annotations}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    jpeg, record = sample()
    files = {"sa_1.jpg": jpeg, "sa_1.json": json.dumps(record).encode()}
    files |= {"sa_2.jpg": b"no photo", "sa_2.json": b"{}"}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return tmp_path / "a.tar"


def test_pixels_are_those_of_pycocotools_small_masks_on_top() -> None:
    jpeg, record = sample()
    drawn = draw_picture(jpeg, json.dumps(record).encode(), side=200, numbers=False)
    assert drawn.caption == "2 masks, 80 x 60, 1 unusable"
    assert drawn.masks.size == drawn.photo.size == (W, H)
    photo, painted = (np.asarray(p, dtype=int) for p in (drawn.photo, drawn.masks))
    annotations = record["annotations"]
    assert isinstance(annotations, list)
    decoded = [coco_mask.decode(a["segmentation"]).astype(bool) for a in annotations[:2]]
    touched = np.abs(photo - painted).sum(-1) > 0
    assert np.array_equal(touched, decoded[0] | decoded[1])
    assert np.allclose(painted[20, 20], colour(0), atol=1)
    assert np.allclose(painted[10, 40], colour(1), atol=1)
    beneath = GREY + OPACITY * (np.array(colour(1)) - GREY)
    assert np.allclose(painted[40, 40], beneath, atol=1)
    assert np.allclose(painted[25, 25], beneath + OPACITY * (colour(0) - beneath), atol=1)


def test_a_large_photo_is_made_smaller_and_numbers_are_written() -> None:
    jpeg, record = sample()
    text = json.dumps(record).encode()
    bare = draw_picture(jpeg, text, side=40, numbers=False)
    numbered = draw_picture(jpeg, text, side=40, numbers=True)
    assert bare.masks.size == (40, 30)
    assert np.allclose(np.asarray(bare.masks)[10, 10], colour(0), atol=1)
    assert np.any(np.asarray(bare.masks) != np.asarray(numbered.masks))


def test_one_sample_and_a_sheet(
    shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pictures/one.png"
    for key in ("sa_1", "a.tar/sa_1"):
        assert main([str(shard), "--key", key, "--out", str(out)]) == 0
    one = np.asarray(Image.open(out))
    assert one.shape == (60 + 18 + 12, 2 * 80 + 3 * 6, 3)
    sheet = tmp_path / "sheet.png"
    arguments = [str(shard), "--sheet", "24", "--side", "80", "--out", str(sheet)]
    assert main([*arguments, "--dry-run"]) == 0
    assert not sheet.exists()
    assert main([*arguments, "--workers", "0"]) == 0
    assert "2 samples" in capsys.readouterr().out
    pixels = np.asarray(Image.open(sheet)).reshape(-1, 3)
    # The second tile is the one that says what is wrong.
    assert (pixels == (64, 32, 32)).all(1).sum() > 500


def test_what_cannot_be_drawn_is_one_line(
    shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "x.png")]
    assert main([str(shard), "--key", "sa_7", *out]) == 2
    assert main([str(shard), "--key", "sa_2", *out]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "no sample is called sa_7; there are 2" in lines[0]
    assert "a.tar/sa_2 cannot be drawn" in lines[1]
    assert not (tmp_path / "x.png").exists()
