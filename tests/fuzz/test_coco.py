"""COCO files of anybody, damaged: refused in one line, or every entry is used or counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzzing import Edit, damaged, edits, fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from sam_train.data.formats.coco import Coco, CocoRecord
from sam_train.data.left_out import SkipImageError
from sam_train.errors import UserError
from sam_train.eval.coco import read_results, read_truth

pytestmark = pytest.mark.fuzz

HEIGHT, WIDTH = 12, 17
SIZE = {"height": HEIGHT, "width": WIDTH}
TRUE = {
    "images": [
        {"id": 1, "file_name": "a.png", **SIZE},
        {"id": 2, "file_name": "x\\b.png", **SIZE},
        {"id": 3, "file_name": "a.png"},
    ],
    "annotations": [
        {
            "id": number,
            "image_id": 1 + number % 3,
            "category_id": 5,
            "bbox": [1, 2, 8, 6],
            "area": 40.5,
            "iscrowd": 0,
            "score": 0.5,
            "segmentation": [[1, 2, 9, 2.5, 9, 8, 1, 8]],
        }
        for number in range(1, 6)
    ],
    "categories": [{"id": 5, "name": "c"}],
}
FRAGMENTS = [
    *(b"null", b"true", b"-1", b"0", b"1e400", b"0.5", b"7.0", b"9" * 400, b"NaN", b'"1"', b'"01"'),
    *(b'""', b'"\\ud800"', b'"\xff"', b'"D:\\q\\a.png"', b"[]", b"{}", b"[[]]", b'"../a.png"'),
    *(b"[1, 2]", b'[{"x": 1, "y": 2}]', b'{"size": [12, 17], "counts": [0, 204]}', b"[" * 3000),
    *(b'{"counts": "PPZ1"}', b"\"b'0'\"", b"[1, 2, 3, 4, 5, 6]", b'"' + b"n" * 5000 + b'"'),
]
_TEXT = json.dumps(TRUE).encode()
VALUES = [
    *(b'"a.png"', b'"x\\\\b.png"', b"12", b"17", b"5", b"40.5", b"[1, 2, 8, 6]", b'"images"'),
    *(b"[[1, 2, 9, 2.5, 9, 8, 1, 8]]", b'"id"', b'"image_id"', b'"segmentation"', b"0", b"0.5"),
]


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    text = _TEXT
    swaps = st.tuples(st.sampled_from(VALUES), st.sampled_from(FRAGMENTS), st.integers(0, 9))
    for value, fragment, which in draw(st.lists(swaps, max_size=3)):
        pieces = text.split(value)
        if len(pieces) > 1:
            at = which % (len(pieces) - 1) + 1
            text = value.join(pieces[:at]) + fragment + value.join(pieces[at:])
    changes: list[Edit] = draw(st.just([]) | edits(most=2))
    return damaged(text, changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("photos")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(out / name)
    yield out


@given(data=documents() | st.binary(max_size=40))
@fuzz(short=80)
def test_files_are_refused_or_counted(folder: Path, data: bytes) -> None:
    path = folder / "t.json"
    path.write_bytes(data)
    try:
        listing = Coco().list(folder, path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    used = left = 0
    for skip in listing.skips:
        left += skip.kind == "mask"
    for record in listing.records:
        assert isinstance(record, CocoRecord)
        try:
            read = record.masks()
        except SkipImageError:
            left += len(record.annotations)
            continue
        left += len(read.skips)
        for mask in read.masks:
            assert list(coco_mask.decode(mask.segmentation).shape) == mask.segmentation["size"]
            used += 1
    if (entries := annotations(data)) is not None:
        assert used + left == entries


def annotations(data: bytes) -> int | None:
    """How many entries the file has as Python's json reads it, if it does."""
    try:
        content: Any = json.loads(data)
        names = [key for key in ("images", "annotations") if data.count(f'"{key}"'.encode()) == 1]
    except (ValueError, RecursionError):
        return None
    return len(content["annotations"]) if len(names) == 2 else None


@given(data=documents() | st.binary(max_size=40))
@fuzz(short=60)
def test_ground_truths_and_results_are_refused_or_read(folder: Path, data: bytes) -> None:
    path = folder / "r.json"
    path.write_bytes(data)
    plain = folder / "plain.json"
    plain.write_bytes(_TEXT)
    try:
        truth = read_truth(path, folder)
        for image in truth.images:
            for mask in truth.masks(image)[0]:
                assert mask.category in truth.categories
                assert coco_mask.decode(dict(mask.rle)).sum() > 0
    except UserError as error:
        assert "\n" not in str(error)
    try:
        sound = read_truth(plain, folder)
        results = read_results(path, sound, option="o", categories=True)
        for image in sound.images:
            for result in results.of(image):
                result.mask(image)
                result.box(image)
                assert result.rank() is not None
                assert result.category_id in sound.categories
    except UserError as error:
        assert "\n" not in str(error)
