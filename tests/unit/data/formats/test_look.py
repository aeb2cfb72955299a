"""A path without a kind: which format is taken, in which parts, and what is said."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_contents import contents
from format_example import block, photo, polygon, require_equal, three_ways, trained
from PIL import Image
from pycocotools import mask as coco_mask

from sam_train.data.formats.look import look_at
from sam_train.data.formats.spec import list_records, read_specs
from sam_train.errors import UserError

OUTLINE = [8.0, 6.0, 70.5, 12.0, 40.0, 51.0]


def coco(file: Path, *names: str, forms: list[Any] | None = None) -> None:
    """Write a COCO JSON with the fields of Roboflow's export."""
    images = [
        {"id": k, "license": 1, "file_name": name, "height": 60, "width": 80, "date_captured": ""}
        for k, name in enumerate(names)
    ]
    found = [
        {"id": len(forms or [0]) * k + n, "image_id": k, "category_id": 1, "bbox": [8, 6, 62, 45]}
        | {"area": 99, "segmentation": form, "iscrowd": 0}
        for k in range(len(names))
        for n, form in enumerate(forms or [[OUTLINE]])
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    categories = [{"id": 0, "name": "fruit", "supercategory": "none"}]
    content = {"info": {}, "licenses": [], "categories": categories}
    file.write_text(json.dumps({**content, "images": images, "annotations": found}))


def masks(folder: Path, name: str) -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[5:20, 5:30], labels[30:50, 40:70] = 1, 2
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(folder / name)


def test_roboflows_coco_has_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = coco_mask.encode(np.asfortranarray(block(5, 40, 10, 50), dtype=np.uint8))
    rle = {"size": runs["size"], "counts": runs["counts"].decode()}
    for part in ("train", "valid", "test"):
        name = f"{part}_jpg.rf.00ff00ff00ff.jpg"
        photo(tmp_path / part / name)
        coco(tmp_path / part / "_annotations.coco.json", name, forms=[[OUTLINE], rle])
    (tmp_path / "README.roboflow.txt").write_text("fruit - v1\n")
    found = look_at(tmp_path)
    assert found is not None
    assert found.parts == {
        "train": f"coco:{tmp_path}/train",
        "val": f"coco:{tmp_path}/valid",
        "test": f"coco:{tmp_path}/test",
    }
    train = tmp_path / "train"
    arguments = ["--images", str(train), "--annotations", str(train / "_annotations.coco.json")]
    with caplog.at_level(logging.INFO):
        read = three_ways(train, tmp_path / "out", "coco", *arguments)
    said = [r.getMessage() for r in caplog.records if "is read as coco" in r.getMessage()]
    assert said[0] == (
        f"data.train: {train} is read as coco: a COCO instances JSON and its photos (in "
        "_annotations.coco.json) (data.train=NAME:PATH insists on another format)"
    )
    expected = [polygon(OUTLINE), block(5, 40, 10, 50)]
    require_equal(read, {"train_jpg.rf.00ff00ff00ff.jpg": expected})
    # Each setting takes its own part of the whole.
    for setting, part in (("data.train", "train"), ("data.val", "valid"), ("eval.datasets", "valid")):  # fmt: skip  # noqa: E501
        for entry in (str(tmp_path), f"coco:{tmp_path}"):
            (spec,) = read_specs(entry, setting=setting)
            assert [r.name[:5] for r in list_records(spec).records] == [part[:5]]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        trained(f"coco:{tmp_path}")
    assert f"data.train: {tmp_path}: its part train is read" in caplog.messages


def test_cocos_own_folders_have_parts(tmp_path: Path) -> None:
    for part, name in (("train2017", "1.jpg"), ("val2017", "2.jpg")):
        photo(tmp_path / part / name)
        coco(tmp_path / f"annotations/instances_{part}.json", name)
        coco(tmp_path / f"annotations/person_keypoints_{part}.json", name)
    found = look_at(tmp_path)
    assert found is not None
    assert (found.format, list(found.parts)) == ("coco", ["train", "val"])
    for part, name in (("train", "1.jpg"), ("val", "2.jpg")):
        assert list(trained(found.parts[part])) == [name]
    assert list(trained(str(tmp_path))) == ["1.jpg"]
    # A JSON alone names its photos' folder by what is in it.
    assert list(trained({"reader": "coco", "path": str(tmp_path), "images": "val2017", "annotations": "annotations/instances_val2017.json"})) == ["2.jpg"]  # fmt: skip  # noqa: E501
    coco(tmp_path / "val2017/mine.json", "2.jpg")
    assert list(trained(str(tmp_path / "val2017/mine.json"))) == ["2.jpg"]
    # LVIS is a COCO of its own, and the name that says more is taken.
    lvis = tmp_path / "lvis"
    photo(lvis / "val2017/2.jpg")
    coco(lvis / "lvis_v1_val.json", "val2017/2.jpg")
    assert (look_at(lvis) or found).format == "lvis"


@pytest.mark.parametrize(
    ("photos", "files"),
    [
        ("images/{0}", "masks/{0}"),
        ("{0}/images", "{0}/masks"),
        ("{0}", "{0}"),
    ],
)
def test_folders_of_masks_have_parts(tmp_path: Path, photos: str, files: str) -> None:
    for part in ("train", "val"):
        photo(tmp_path / photos.format(part) / f"{part}.jpg")
        masks(tmp_path / files.format(part), f"{part}_mask.png")
    found = look_at(tmp_path)
    assert found is not None
    assert found.format == "masks"
    assert list(found.parts) == ["train", "val"]
    for name, entry in found.parts.items():
        assert [Path(n).name for n in trained(entry)] == [f"{name}.jpg"]
    assert [Path(n).name for n in trained(str(tmp_path))] == ["train.jpg"]


def test_particular_formats_displace_folders_of_masks(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg")
    masks(tmp_path / "masks", "a.png")
    assert (look_at(tmp_path) or pytest.fail()).format == "masks"
    coco(tmp_path / "all.json", "a.jpg")
    assert (look_at(tmp_path) or pytest.fail()).format == "coco"
    # Two that say as much as each other cannot be told apart.
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 .1 .1 .5 .1 .5 .5\n")
    with pytest.raises(UserError, match=r"looks like coco \(all.json\), yolo \(labels\): write"):
        trained(str(tmp_path))
    assert len(trained(f"yolo:{tmp_path}")) == 1


def test_nothing_known_is_one_line(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "notes"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"no data set of a known format \(its files: 2 .csv, 1 no"):
        trained(str(tmp_path))
    with pytest.raises(UserError, match=r"eval.datasets: .*2 .csv.*NAME:PATH insists"):
        read_specs(str(tmp_path))
    assert look_at(tmp_path / "absent") is None


def test_contents_of_some_samples(tmp_path: Path) -> None:
    for k in range(5):
        photo(tmp_path / f"images/{k}.jpg", height=60 if k < 3 else 30)
        masks(tmp_path / "masks", f"{k}.png")
    seen = contents(str(tmp_path))
    assert (seen.images, seen.looked_at, seen.masks) == (5, 5, 6)
    assert dict(seen.sizes) == {(80, 60): 3}
    seen = contents(str(tmp_path), most=2)
    assert (seen.images, seen.looked_at, seen.masks) == (5, 2, 4)
