"""LabelMe's JSONs as LabelMe 5 writes them."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_contents import contents
from format_example import (
    block,
    ellipse,
    overlap,
    photo,
    polygon,
    require_equal,
    three_ways,
    trained,
)
from PIL import Image

from sam_train.errors import UserError

OUTLINE = [[8.0, 6.0], [70.5, 12.0], [40.0, 51.0]]


def shape(kind: str, points: Any, **more: Any) -> dict[str, Any]:
    """Make a shape with the fields of LabelMe 5."""
    fields = {"label": "cell", "group_id": None, "description": "", "flags": {}, "mask": None}
    return {**fields, "points": points, "shape_type": kind, **more}


def write(path: Path, name: str, shapes: list[Any], **more: Any) -> None:
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name}
    content |= {"imageData": None, "imageHeight": 60, "imageWidth": 80, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def png(pixels: np.ndarray[Any, Any]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_every_shape(tmp_path: Path) -> None:
    root = tmp_path / "cells"
    photo(root / "zellen ü.jpg")
    pixels = np.zeros((10, 20), dtype=bool)
    pixels[2:8, 3:17] = True
    shapes = [
        shape("polygon", OUTLINE),
        shape("rectangle", [[50, 40], [10, 5]]),
        shape("circle", [[40.0, 30.0], [40.0, 12.0]]),
        # The box's corners are the first and the last pixel of the picture.
        shape("mask", [[30, 20], [49, 29]], mask=png(pixels)),
        shape("rectangle", [[1, 1], [5, 5]], group_id=3),
        shape("rectangle", [[70, 50], [78, 58]], group_id=3),
        shape("rectangle", [[60, 1], [65, 5]], group_id=3, label="other"),
    ]
    write(root / "zellen ü.json", "zellen ü.jpg", shapes)
    masks = three_ways(root, tmp_path / "out", "labelme", "--images", str(root))["zellen ü.jpg"]
    circle = ellipse(40, 30, 18, 18)
    assert overlap(masks[2], circle) > 0.97
    expected = [
        polygon([v for point in OUTLINE for v in point]),
        block(5, 40, 10, 50),
        masks[2],
        block(22, 28, 33, 47),
        block(1, 5, 1, 5) | block(50, 58, 70, 78),
        block(1, 5, 60, 65),
    ]
    require_equal({"a": masks}, {"a": expected})


def test_photos_elsewhere_inside_and_missing(tmp_path: Path) -> None:
    inside = photo(tmp_path / "inside.png", orientation=1).read_bytes()
    (tmp_path / "inside.png").unlink()
    root = tmp_path / "set"
    photo(root / "images/a.jpg")
    # Held upright the photo is 60 wide and 80 high, which is what LabelMe shows and writes.
    photo(root / "images/held.jpg", orientation=6)
    outlines = [shape("polygon", OUTLINE)]
    write(root / "labels/a.json", "..\\images\\a.jpg", outlines)
    write(root / "labels/copy.json", "../images/a.jpg", outlines)
    upright = [shape("rectangle", [[4, 70], [50, 76]])]
    write(root / "labels/held.json", "D:\\old\\held.jpg", upright, imageHeight=80, imageWidth=60)
    data = base64.b64encode(inside).decode()
    write(root / "labels/in.json", "in.png", outlines, imageData=data, imageHeight=None)
    write(root / "labels/out.json", "out.png", outlines)
    write(root / "labels/broken.json", "in.png", outlines, imageData="no photo")
    photo(root / "images/none.jpg")
    write(root / "labels/none.json", "../images/none.jpg", [])
    arguments = ["labelme", "--images", str(root / "images"), "--annotations", str(root / "labels")]
    masks = three_ways(root, tmp_path / "out", *arguments)
    assert {name: [m.shape for m in own] for name, own in masks.items()} == {
        "a.jpg": [(60, 80)],
        "held.jpg": [(80, 60)],
        "in.json": [(60, 80)],
    }
    seen = contents(f"labelme:{root}")
    assert sorted((s.kind, s.reason, s.count) for s in seen.skips) == [
        ("image", "another JSON has its photo", 1),
        ("image", "no shape", 1),
        ("image", "unusable", 2),
    ]


def test_bad_shapes_are_counted(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "b.jpg", height=30)
    bad = [
        shape("polygon", OUTLINE[:2]),
        shape("circle", [[1, 2]]),
        shape("mask", [[1, 2], [3, 4]], mask="AAAA"),
        shape("polygon", [[1, "x"], [2, 3], [4, 5]]),
        shape("star", OUTLINE),
        shape("polygon", [[1, 2], [3, None], [1e300, 5]]),
        "no shape",
        shape("line", OUTLINE[:2]),
        shape("point", OUTLINE[:1]),
        shape("rectangle", [[50, 40], [10, 5]]),
    ]
    write(tmp_path / "a.json", "a.jpg", bad)
    # The JSON says 60 rows, the photo has 30.
    write(tmp_path / "b.json", "b.jpg", [shape("rectangle", [[5, 4], [10, 15]])])
    (tmp_path / "classes.json").write_text('{"cell": 1}')
    (tmp_path / "cut.json").write_text('{"shapes": [')
    seen = contents(str(tmp_path))
    assert seen.masks == 1
    assert sorted((s.kind, s.reason, s.count) for s in seen.skips) == [
        ("file", "JSON file, not read", 1),
        ("image", "unreadable JSON", 1),
        ("image", "unusable", 1),
        ("mask", "bad shape", 7),
        ("mask", "point or line, which has no area", 2),
    ]
    with pytest.raises(UserError, match="has no image"):
        (tmp_path / "a.json").unlink()
        (tmp_path / "b.json").unlink()
        trained(f"labelme:{tmp_path}")
