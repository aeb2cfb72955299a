"""CVAT's XML for images 1.1, task and project exports."""

from __future__ import annotations

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

from sam_train.errors import UserError

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>4</id><name>t</name><labels><label><name>car</name></label></labels></task></meta>
"""
MORE = 'label="car" source="manual" occluded="0" z_order="0"'


def runs(pixels: np.ndarray[Any, Any]) -> list[int]:
    """Return CVAT's runs of a picture: along its rows, background first."""
    found, inside = [0], False
    for pixel in pixels.ravel():
        if pixel != inside:
            found.append(0)
            inside = not inside
        found[-1] += 1
    return found


def write(root: Path, *images: str, end: str = "</annotations>\n") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "annotations.xml").write_text(HEAD + "\n".join(images) + end, encoding="utf-8")


def image(name: str, *shapes: str, number: int = 0, more: str = 'width="80" height="60"') -> str:
    return f'<image id="{number}" name="{name}" {more}>{"".join(shapes)}</image>'


def test_every_shape(tmp_path: Path) -> None:
    root = tmp_path / "task"
    disc = ellipse(6.5, 7.5, 6.5, 7.5)[:15, :13]
    photo(root / "images/straße/a.jpg")
    photo(root / "images/empty.jpg")
    write(
        root,
        image(
            "straße/a.jpg",
            f'<polygon {MORE} points="8.00,6.00;70.50,12.00;40.00,51.00"/>',
            f'<mask {MORE} rle="{", ".join(map(str, runs(disc)))}" left="30" top="20" width="13" '
            'height="15"/>',
            f'<box {MORE} xtl="10" ytl="5" xbr="50" ybr="40"><attribute name="x"/></box>',
            f'<box {MORE} xtl="20" ytl="20" xbr="40" ybr="30" rotation="90"/>',
            f'<ellipse {MORE} cx="40" cy="30" rx="30" ry="12" rotation="90"/>',
            f'<box {MORE} xtl="1" ytl="1" xbr="5" ybr="5" group_id="2"/>',
            f'<box {MORE} xtl="70" ytl="50" xbr="78" ybr="58" group_id="2"/>',
            f'<box {MORE} xtl="20" ytl="25" xbr="60" ybr="35" rotation="45"/>',
        ),
        image("empty.jpg", number=1),
    )
    arguments = ["--images", str(root / "images"), "--annotations", str(root / "annotations.xml")]
    (masks,) = three_ways(root, tmp_path / "out", "cvat", *arguments).values()
    picture = np.zeros((60, 80), dtype=bool)
    picture[20:35, 30:43] = disc
    # Upright after the turn.
    assert overlap(masks[4], ellipse(40, 30, 12, 30)) > 0.97
    # Clockwise: what was the right end is below the middle.
    assert masks[6][43, 53]
    assert not masks[6][17, 53]
    expected = [
        polygon([8, 6, 70.5, 12, 40, 51]),
        picture,
        block(5, 40, 10, 50),
        # 20 x 10 about (30, 25), turned upright.
        block(15, 35, 25, 35),
        masks[4],
        block(1, 5, 1, 5) | block(50, 58, 70, 78),
        masks[6],
    ]
    require_equal({"a": masks}, {"a": expected})
    assert [len(m) for m in trained({"reader": "cvat", "path": str(root), "boxes": False}).values()] == [3]  # fmt: skip  # noqa: E501


def test_a_project_has_a_folder_for_each_subset(tmp_path: Path) -> None:
    box = f'<box {MORE} xtl="10" ytl="5" xbr="50" ybr="40"/>'
    for subset in ("Train", "Validation"):
        photo(tmp_path / f"images/{subset}/1.jpg")
    write(
        tmp_path,
        *(
            image("1.jpg", box, more=f'subset="{subset}" task_id="3" width="80" height="60"')
            for subset in ("Train", "Validation")
        ),
    )
    assert list(trained(str(tmp_path))) == ["Train/1.jpg", "Validation/1.jpg"]


def test_bad_shapes_and_files(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "b.jpg", height=30)
    good = f'<polygon {MORE} points="8,6;70,12;40,51"/>'
    mask = f'<mask {MORE} left="1" top="1" width="3" height="2"'
    write(
        tmp_path,
        image(
            "a.jpg",
            good,
            f'<polygon {MORE} points="8,6;70,12"/>',
            f'<polygon {MORE} points="8,6;x,12;1,2"/>',
            f"<polygon {MORE}/>",
            f'{mask} rle="2, 2"/>',
            f'{mask} rle="-2, 8"/>',
            f'<mask {MORE} left="1" top="1" width="30000000" height="2" rle="3"/>',
            f'<box {MORE} xtl="1" ytl="nan" xbr="3" ybr="4"/>',
            f'<polyline {MORE} points="8,6;70,12;40,51"/>',
        ),
        image("a.jpg", good, number=1),
        image("b.jpg", good, number=2),
        image("lost.jpg", good, number=3),
    )
    seen = contents(str(tmp_path))
    assert seen.masks == 1
    assert sorted((s.kind, s.reason, s.count) for s in seen.skips) == [
        ("image", "duplicate name", 1),
        ("image", "unusable", 2),
        ("mask", "bad shape", 7),
        ("mask", "point, line or cuboid, which has no area", 1),
    ]
    for content, said in (
        (HEAD + "<track id='0'><box/></track></annotations>", "XML for video"),
        (HEAD + image("a.jpg", good), "damaged or cut off"),
        ("<!DOCTYPE x [<!ENTITY a 'aaaa'>]><annotations/>", "document type"),
        ("<annotation><object/></annotation>", "its root is annotation"),
    ):
        (tmp_path / "annotations.xml").write_text(content)
        with pytest.raises(UserError, match=said):
            trained(f"cvat:{tmp_path}")
