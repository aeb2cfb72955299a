"""Pascal VOC's folders: VOC's own palette PNGs, and the colours that CVAT writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from format_contents import contents
from format_example import block, photo, require_equal, three_ways, trained
from PIL import Image

from sam_train.data.formats.look import look_at
from sam_train.errors import UserError


def palette() -> list[int]:
    """Return VOC's colours: the bits of a label, spread over red, green and blue from the top."""
    colours = np.zeros((256, 3), dtype=int)
    for label in range(256):
        for bit in range(8):
            for channel in range(3):
                colours[label, channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return [int(value) for value in colours.ravel()]


def labels() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    pixels = np.zeros((60, 80), dtype=np.uint8)
    pixels[8:32, 8:42] = 255
    pixels[10:30, 10:40] = 1
    pixels[40:50, 10:30] = 2
    return pixels


EXPECTED = [block(10, 30, 10, 40), block(40, 50, 10, 30)]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit/VOC2012"
    for folder in (
        "SegmentationObject",
        "SegmentationClass",
        "ImageSets/Segmentation",
        "Annotations",
    ):
        (root / folder).mkdir(parents=True)
    for name in ("2007_000032", "2007_000039", "2007_000063"):
        photo(root / f"JPEGImages/{name}.jpg")
        image = Image.fromarray(labels(), "P")
        image.putpalette(palette())
        image.save(root / f"SegmentationObject/{name}.png")
    photo(root / "JPEGImages/2008_000001.jpg")
    lists = root / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("2007_000039\n2007_000032\n2007_000039\n")
    (lists / "val.txt").write_text("2007_000063\n2008_000001\n2009_000001\n")
    (lists / "trainval.txt").write_text("2007_000032\n2007_000039\n2007_000063\n")
    return root


def test_the_lists_are_parts(voc: Path, tmp_path: Path) -> None:
    lists = voc / "ImageSets/Segmentation"
    for path in (voc, voc.parent, voc.parent.parent):
        found = look_at(path)
        assert found is not None
        assert found.format == "voc"
        assert found.parts == {"train": f"voc:{lists}/train.txt", "val": f"voc:{lists}/val.txt"}
    arguments = ["voc", "--images", str(voc), "--names", str(lists / "train.txt")]
    masks = three_ways(f"voc:{lists}/train.txt", tmp_path / "out", *arguments)
    expected = {"2007_000039.jpg": EXPECTED, "2007_000032.jpg": EXPECTED}
    require_equal(masks, expected)
    require_equal(trained(str(voc)), expected)
    seen = contents(found.parts["val"])
    assert [(s.kind, s.reason, s.names) for s in seen.skips] == [
        ("image", "missing image", ["2009_000001"]),
        ("image", "no mask file", ["2008_000001"]),
    ]
    # An insisted folder without lists is all of it.
    for file in lists.iterdir():
        file.unlink()
    assert len(trained(f"voc:{voc}")) == 3


def test_colours_and_classes(voc: Path, tmp_path: Path) -> None:
    colours = np.array(palette(), dtype=np.uint8).reshape(-1, 3)
    assert colours[255].tolist() == [224, 224, 192]
    folder = voc / "SegmentationObject"
    for file in folder.iterdir():
        Image.fromarray(colours[labels()]).save(file)
    train = f"voc:{voc}/ImageSets/Segmentation/train.txt"
    assert [len(own) for own in trained(train).values()] == [2, 2]
    # By colour: the second object's green is a smaller number than the first one's red.
    require_equal({"a": next(iter(trained(train).values()))}, {"a": EXPECTED[::-1]})
    (voc / "SegmentationClass").rmdir()
    folder.rename(voc / "SegmentationClass")
    assert len(trained(train)) == 2


def test_bad_files_are_counted(voc: Path) -> None:
    folder = voc / "SegmentationObject"
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(folder / "2007_000032.png")
    (folder / "2007_000039.png").write_bytes(b"no png")
    Image.fromarray(labels()[:30]).save(folder / "2007_000063.png")
    for file in (voc / "ImageSets/Segmentation").iterdir():
        file.unlink()
    seen = contents(f"voc:{voc}")
    assert seen.masks == 0
    assert [(s.kind, s.reason, s.count) for s in seen.skips] == [("image", "unusable", 3)]
    with pytest.raises(UserError, match="no JPEGImages beside SegmentationObject"):
        trained(
            {"reader": "voc", "path": str(voc / "Annotations"), "images": "/", "annotations": "/"}
        )
