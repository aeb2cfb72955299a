"""SA-1B's JSON beside each photo: Roboflow's SAM 2 export, and photos that are no JPEG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from format_contents import contents
from format_example import block, photo, require_equal, three_ways, trained
from pycocotools import mask as coco_mask

from sam_train.data.formats.look import look_at
from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets import open_datasets

MASKS = [block(5, 40, 10, 50), block(30, 58, 2, 9)]


def annotation(number: int, mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return an annotation as Roboflow's export has it."""
    found = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    segmentation = {"size": found["size"], "counts": found["counts"].decode()}
    box = [float(value) for value in coco_mask.toBbox(found)]
    fields = {"id": number, "area": int(mask.sum()), "predicted_iou": 1.0, "stability_score": 1.0}
    fields |= {"point_coords": [[20, 20]], "crop_box": [0, 0, 80, 60]}
    return {**fields, "bbox": box, "segmentation": segmentation}


def pair(folder: Path, name: str, annotations: list[Any] | None = None) -> None:
    photo(folder / name)
    found = annotations or [annotation(k, mask) for k, mask in enumerate(MASKS)]
    image = {"image_id": 7, "width": 80, "height": 60, "file_name": name}
    path = (folder / name).with_suffix(".json")
    path.write_text(json.dumps({"image": image, "annotations": found}))


def test_roboflows_export_is_shards_with_parts(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        pair(tmp_path / part, f"{part}_jpg.rf.0123456789abcdef.jpg")
    found = look_at(tmp_path)
    assert found is not None
    assert found.format == "shards"
    assert found.parts == {
        "train": f"shards:{tmp_path}/train",
        "val": f"shards:{tmp_path}/valid",
        "test": f"shards:{tmp_path}/test",
    }
    name = "train_jpg.rf.0123456789abcdef"
    require_equal(trained(str(tmp_path)), {name: MASKS})
    (measured,) = open_datasets(EvalConfig(datasets=[str(tmp_path)]))
    assert [image.name for image in measured.images] == ["valid/valid_jpg.rf.0123456789abcdef"]
    # And by its own name, for `convert`.
    train = tmp_path / "train"
    out = tmp_path / "out"
    require_equal(
        three_ways(f"sa1b:{train}", out, "sa1b", "--images", str(train)), {f"{name}.jpg": MASKS}
    )


def test_other_photos_and_bad_files(tmp_path: Path) -> None:
    pair(tmp_path, "ü.png")
    bad: list[Any] = ["none", {"segmentation": None}, {"segmentation": [[1, 2, 3, 4]]}]
    bad += [{"segmentation": {"size": [60, 80], "counts": "zz"}}, {"segmentation": 7}]
    bad += [{"segmentation": {"size": [6, 8], "counts": [8, 40]}}]
    bad += [{"segmentation": [[10, 5, 50, 5, 50, 40, 10, 40]]}]
    pair(tmp_path, "bad.png", bad)
    pair(tmp_path, "cut.png")
    (tmp_path / "cut.json").write_text('{"annotations": [')
    pair(tmp_path, "lost.png")
    (tmp_path / "lost.png").unlink()
    photo(tmp_path / "alone.png")
    found = look_at(tmp_path)
    assert found is not None
    assert found.format == "sa1b"
    masks = three_ways(tmp_path, tmp_path.with_name("out"), "sa1b", "--images", str(tmp_path))
    require_equal(masks, {"bad.png": MASKS[:1], "ü.png": MASKS})
    seen = contents(found.entry)
    assert sorted((s.kind, s.reason, s.count) for s in seen.skips) == [
        ("image", "missing image", 1),
        ("image", "no JSON of its name", 1),
        ("image", "unusable", 1),
        ("mask", "bad segmentation", 3),
        ("mask", "no segmentation", 2),
        ("mask", "size differs from the image's", 1),
    ]
