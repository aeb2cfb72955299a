"""YOLO-seg as ultralytics and Roboflow write it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from format_contents import contents
from format_example import block, photo, polygon, require_equal, three_ways, trained

from sam_train.data.formats.look import look_at
from sam_train.errors import UserError

TRIANGLE = [8.0, 6.0, 70.4, 12.0, 40.0, 51.0]


def line(points: list[float], *, height: int = 60, width: int = 80, label: int = 0) -> str:
    sides = [width, height] * (len(points) // 2)
    return " ".join([str(label), *(f"{p / s:.10f}" for p, s in zip(points, sides, strict=True))])


@pytest.fixture
def roboflow(tmp_path: Path) -> Path:
    """A Roboflow export: parts with images/ and labels/, a YAML that says `../train/images`."""
    root = tmp_path / "fruit"
    for part in ("train", "valid"):
        (root / part / "labels").mkdir(parents=True)
        for name in ("äpfel_jpg.rf.0a1b2c", "sky"):
            photo(root / part / f"images/{name}.jpg")
    photo(root / "train/images/held.jpg", orientation=6)
    labels = root / "train/labels"
    box = line([8.0, 6.0, 40.0, 6.0, 40.0, 30.0, 8.0, 30.0])
    (labels / "äpfel_jpg.rf.0a1b2c.txt").write_text(f"{line(TRIANGLE, label=2)}\n{box}\n")
    (labels / "sky.txt").write_text("")
    # Fractions of the photo as people see it: 60 wide and 80 high.
    (labels / "held.txt").write_text(line([6.0, 8.0, 30.0, 8.0, 30.0, 40.0], height=80, width=60))
    (root / "valid/labels/sky.txt").write_text("0 0.5 0.5 0.2 0.2\n" + line(TRIANGLE))
    yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 1\n"
    (root / "data.yaml").write_text(f"{yaml}names: ['apple']\nroboflow:\n  version: 1\n")
    return root


def test_roboflows_export(roboflow: Path, tmp_path: Path) -> None:
    found = look_at(roboflow)
    assert found is not None
    assert found.format == "yolo"
    assert found.parts == {
        "train": f"yolo:{roboflow}/train/images",
        "val": f"yolo:{roboflow}/valid/images",
    }
    train = str(roboflow / "train/images")
    masks = three_ways(train, tmp_path / "out", "yolo", "--images", train)
    corners = [6.0, 8.0, 30.0, 8.0, 30.0, 40.0]
    expected = {
        "held.jpg": [polygon(corners, height=80, width=60)],
        "äpfel_jpg.rf.0a1b2c.jpg": [polygon(TRIANGLE), block(6, 30, 8, 40)],
    }
    require_equal(masks, expected)
    # The folder, its YAML and the part are the same photos.
    for path in (roboflow, roboflow / "data.yaml", roboflow / "train"):
        require_equal(trained(str(path)), expected)
    seen = contents(found.parts["val"])
    assert (seen.images, seen.masks, dict(seen.sizes)) == (1, 1, {(80, 60): 1})
    assert [(s.kind, s.reason, s.count) for s in seen.skips] == [
        ("image", "no text file: no object", 1),
        ("mask", "box only", 1),
    ]


def test_lists_and_folders_of_ultralytics(tmp_path: Path) -> None:
    root = tmp_path / "coco8-seg"
    for part, name in (("train2017", "a"), ("train2017", "b"), ("val2017", "c")):
        photo(root / f"images/{part}/{name}.jpg")
        (root / f"labels/{part}").mkdir(parents=True, exist_ok=True)
        (root / f"labels/{part}/{name}.txt").write_text(line(TRIANGLE))
    (root / "train.txt").write_text("/elsewhere/coco8-seg/images/train2017/b.jpg\nimages/no.jpg\n")
    (root / "coco8-seg.yaml").write_text(
        "path: /elsewhere/coco8-seg\ntrain: train.txt\nval: images/val2017\nnames:\n  0: x\n"
    )
    assert list(trained(str(root))) == ["images/train2017/b.jpg"]
    assert list(trained(f"yolo:{root}/images/val2017")) == ["c.jpg"]
    # Without a YAML both trees are one data set.
    (root / "coco8-seg.yaml").unlink()
    assert len(trained(str(root))) == 3


def test_bad_lines_are_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "gone.jpg"):
        photo(tmp_path / "images" / name)
    (tmp_path / "labels").mkdir()
    bad = ["0 0.1 0.1 0.5 0.5", "0 .1 .1 .5 .1 .5", "0 10 10 50 10 50 40", "0 nan .1 .5 .1 .5 .5"]
    bad += ["person .1 .1 .5 .1 .5 .5 x", "0", line(TRIANGLE)]
    (tmp_path / "labels/a.txt").write_text("\n".join(bad))
    (tmp_path / "labels/gone.txt").write_text(line(TRIANGLE))
    (tmp_path / "labels/lost.txt").write_text(line(TRIANGLE))
    (tmp_path / "images/gone.jpg").write_bytes(b"no photo")
    seen = contents(f"yolo:{tmp_path}")
    assert seen.masks == 1
    assert {(s.kind, s.reason, s.count) for s in seen.skips} == {
        ("image", "duplicate name", 1),
        ("image", "no text file: no object", 1),
        ("image", "unusable", 1),
        ("file", "text file without a photo", 1),
        ("mask", "box only", 1),
        ("mask", "bad polygon", 4),
        ("mask", "no line of YOLO's form", 1),
    }


def test_boxes_alone_are_nothing_to_train_on(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"no image .*boxes only, no mask: a\.jpg") as error:
        trained(str(tmp_path))
    assert "\n" not in str(error.value)
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(UserError, match="but 1 picture without"):
        trained(str(tmp_path))
