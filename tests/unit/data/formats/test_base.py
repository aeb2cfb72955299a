"""A format of one file is trained on, evaluated and converted; none stands in a list."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_tools import convert
from sam_train.data.formats.base import FORMATS, formats
from sam_train.data.formats.look import look_at
from sam_train.data.shards.reader import open_shards
from sam_train.errors import UserError
from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets import open_datasets

FORMAT = '''
"""Photos with boxes in text files: x y width height a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.records import Listing, MasksRead, Record, list_images
from sam_train.data.photos.files import open_pillow


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxesRecord(Record):
    boxes: Path
    grow: int

    def inputs(self):
        return [self.boxes]

    def masks(self):
        read = MasksRead()
        with open_pillow(self.image) as photo:
            width, height = photo.size
        for number, line in enumerate(self.boxes.read_text().splitlines()):
            x, y, w, h = map(int, line.split())
            pixels = np.zeros((height, width), dtype=np.uint8, order="F")
            pixels[y : y + h + self.grow, x : x + w + self.grow] = 1
            found = coco_mask.encode(pixels)
            read.add(f"box {number}", {**found, "counts": found["counts"].decode()})
        return read


@register
@dataclass(frozen=True, kw_only=True)
class Boxes(Format):
    name = "boxes"
    summary = "photos and text files of boxes"
    annotation_places = ("boxes",)
    annotations = Annotations(flag="--boxes", metavar="DIR")

    grow: int = option(0, parse=int, help="pixels")

    def list(self, images, annotations):
        listing = Listing(records=[])
        for path in list_images(images):
            boxes = annotations / f"{path.stem}.txt"
            record = BoxesRecord(name=path.name, image=path, boxes=boxes, grow=self.grow)
            listing.records.append(record)
        return listing
'''


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of the format `boxes`, which a file outside of the project reads."""
    (tmp_path / "boxes_format.py").write_text(FORMAT)
    monkeypatch.syspath_prepend(tmp_path)
    # What is registered here is gone after the test.
    monkeypatch.setattr(FORMATS, "_entries", formats())
    for module in ("boxes_format", "more_boxes"):
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]
    importlib.import_module("boxes_format")
    for part in ("images", "boxes"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(np.full((40, 60, 3), 99, dtype=np.uint8)).save(
            tmp_path / f"set/images/{name}.jpg"
        )
        (tmp_path / f"set/boxes/{name}.txt").write_text("4 5 20 10\n30 2 8 30\n")
    return tmp_path / "set"


def test_one_file_is_all_a_format_needs(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--images", str(boxes / "images"), "--boxes", str(boxes / "boxes")]
    arguments += ["--grow", "1", "--out", str(out), "--workers", "0"]
    assert convert.main(["boxes", *arguments]) == 0
    assert "2 images, 4 masks" in capsys.readouterr().out

    entry = {"reader": "boxes", "path": str(boxes), "grow": 1}
    (measured,) = open_datasets(EvalConfig(datasets=[entry]))
    assert measured.images[0].load().areas == [21 * 11, 9 * 31]

    trained = open_shards([entry], option="data.train", formats=True)
    stored = open_shards(str(out), option="data.train")
    for k in range(2):
        assert trained.read(k).jpeg == stored.read(k).jpeg
    assert convert.main(["boxen", "--images", "x", "--out", "y"]) == 2
    assert "did you mean boxes?" in capsys.readouterr().err


def test_a_name_is_taken_once(boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more_boxes.py").write_text(FORMAT)
    with pytest.raises(UserError, match="more_boxes and boxes_format both register format="):
        importlib.import_module("more_boxes")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["leftImg8bit/val/x.png", "gtFine/val/x.png"], "cityscapes"),
        (["stage1_train/7/images/7.png", "stage1_train/7/masks/a.png"], "bbbc038"),
        (["images/a.jpg", "masks/a.png"], "masks"),
        (["images/val/a.jpg", "groundTruth/val/a.mat"], "bsds"),
        (["images/a.jpg", "images/a_seg.png"], "ade20k"),
        (["images/a.jpg"], None),
        (["notes.txt"], None),
    ],
)
def test_a_folder_is_recognised(tmp_path: Path, files: list[str], name: str | None) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    found = look_at(tmp_path)
    assert (found.format if found else None) == name


def test_a_json_is_recognised_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    runs = '{"a": {"size": [4, 5], "counts": ["0"]}}'
    for content, name in (
        (runs, "rle"),
        ('{"images": [], "annotations": []}', "coco"),
        ("[", None),
    ):
        (tmp_path / "all.json").write_text(content)
        found = look_at(tmp_path)
        assert (found.format if found else None) == name
