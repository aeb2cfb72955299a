"""Which mask files belong to which photos, by the names that people give them."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from data_tools.convert import main
from sam_train.data.formats.mask_names import mask_files_among, match_files

E_ACUTE = unicodedata.normalize("NFC", "é")
E_AND_ACUTE = unicodedata.normalize("NFD", "é")


def matched(photos: list[str], masks: list[str], *, suffix: str = "") -> dict[str, list[str]]:
    found = match_files(
        [PurePosixPath(p) for p in photos], [PurePosixPath(m) for m in masks], suffix=suffix
    )
    left = {masks[place] for place in found.unused}
    result = {photos[p]: [masks[m] for m in files] for p, files in found.files.items()}
    assert sorted([*left, *(m for files in result.values() for m in files)]) == sorted(masks)
    return result


@pytest.mark.parametrize(
    "mask",
    [
        "{}.png", "{}.jpg.png", "{}_mask.png", "{}-mask.tif", "{}_masks.tif", "{}_seg.png",
        "mask_{}.png", "{}_gt.bmp", "{}_label.png", "{}_labels.PNG", "{}_segmentation.TIFF",
        "{}.mask.png", "{} mask.png", "{}_Mask.GIF", "{}_cp_masks.png", "{}_groundtruth.png",
        "{}/0.png", "{}/masks/0.png", "{}_masks/0.png", "{}_0.png", "{}_mask_0.png",
        "{}_0_mask.png", "{} (1).png", "{}-1.png", "{}_obj_1.png", "{}_instance_12.png",
        "{}_liver.png", "{}_left lung.png",
    ],
)  # fmt: skip
def test_usual_names(mask: str) -> None:
    photos = ["a.jpg", "b.c.jpg", "sub/a.jpg", "img_10.jpg"]
    files = [mask.format("a"), mask.format("b.c"), "sub/" + mask.format("a"), mask.format("img_10")]
    if ".jpg.png" in mask:
        files = [f"{photo}.png" for photo in photos]
    assert matched(photos, files) == {p: [m] for p, m in zip(photos, files, strict=True)}


@pytest.mark.parametrize(
    ("photo", "mask"),
    [
        ("image_007.png", "mask_007.png"), ("7_sat.jpg", "7_mask.png"), ("img-7.png", "gt-7.png"),
        ("A.JPG", "a.png"), (f"caf{E_ACUTE}.jpg", f"caf{E_AND_ACUTE}.png"),
        ("images/a.jpg", "labels/a.png"), ("train/a.jpg", "a.png"), ("a.jpg", "x/y/a_mask.png"),
        ("images/a.jpg", "a/0.png"),
    ],
)  # fmt: skip
def test_names_that_differ_otherwise(photo: str, mask: str) -> None:
    assert matched([photo], [mask]) == {photo: [mask]}


def test_a_number_is_an_object_or_a_photo() -> None:
    photos = ["a.jpg", "a_1.jpg"]
    # Each photo has a file of its name: a_1.png is no object of a.
    assert matched(photos, ["a.png", "a_1.png"]) == {"a.jpg": ["a.png"], "a_1.jpg": ["a_1.png"]}
    # As objects, files give both photos masks; by the same name only one would have any.
    assert matched(photos, ["a_0.png", "a_1.png", "a_1_0.png"]) == {
        "a.jpg": ["a_0.png", "a_1.png"],
        "a_1.jpg": ["a_1_0.png"],
    }
    # 1:1, and one photo is gone: its mask is nobody's, rather than an object of another photo.
    assert matched(["a.jpg"], ["a.png", "a_1.png"]) == {"a.jpg": ["a.png"]}
    found = match_files([PurePosixPath(p) for p in photos], [PurePosixPath("a_1.png")])
    assert found.doubtful == [(0, 1, 0)]


def test_objects_are_in_the_order_of_their_numbers() -> None:
    files = [f"a_{k}.png" for k in range(12)]
    assert matched(["a.jpg"], sorted(files)) == {"a.jpg": files}


def test_two_photos_that_differ_in_case_keep_their_own_masks() -> None:
    assert matched(["A.jpg", "a.jpg"], ["a.png", "A.png"]) == {
        "A.jpg": ["A.png"],
        "a.jpg": ["a.png"],
    }
    assert matched(["A.jpg", "a.jpg"], ["sub/a.png"]) == {}


def test_a_name_in_two_folders_is_not_guessed() -> None:
    assert matched(["x/a.jpg", "y/a.jpg"], ["a.png"]) == {}


def test_of_two_files_of_one_name_the_exact_format_counts() -> None:
    assert matched(["a.jpg"], ["a.jpg", "a.png"]) == {"a.jpg": ["a.png"]}
    assert matched(["a.jpg"], ["a_mask.png", "a_color.png"]) == {"a.jpg": ["a_mask.png"]}


def test_a_suffix_is_taken_at_its_word() -> None:
    assert matched(["a.jpg"], ["a.png", "a_cells.png", "a_mask.png"], suffix="_cells") == {
        "a.jpg": ["a_cells.png"]
    }


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        (["a.jpg", "a.png"], {"a.png"}),
        (["a.png", "a_mask.png"], {"a_mask.png"}),
        (["a.tif", "a_masks.tif", "b.tif", "b_masks.tif"], {"a_masks.tif", "b_masks.tif"}),
        (["images/a.png", "masks/a.png"], {"masks/a.png"}),
        (["im_1.png", "mask_1.png"], set()),
        (["image_1.png", "mask_1.png"], {"mask_1.png"}),
        (["a.tif", "a.npy"], {"a.npy"}),
        (["a.png", "b.png"], set()),
    ],
)
def test_masks_among_photos(files: list[str], masks: set[str]) -> None:
    found = mask_files_among([PurePosixPath(f) for f in files])
    if files[0].startswith("im_"):
        masks = {"mask_1.png"}  # `im`, too, is a word for a photo
    assert {files[k] for k in found} == masks


def test_what_matches_nothing_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 4:9] = 255
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / f"images/{name}.jpg")
    for name in ("a", "c"):
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    foreign = {
        "a.json": b'{"version": "5.0", "shapes": [], "imagePath": "a.jpg"}',
        "a.txt": b"0 0.1 0.2 0.3 0.4 0.5 0.6\n",
        "a.xml": b"<annotation><object/></annotation>",
        "cvat.xml": b'<?xml version="1.0"?><annotations><image/></annotations>',
        "coco.json": b'{"images": [], "annotations": [], "categories": []}',
    }
    for name, content in foreign.items():
        (tmp_path / "masks" / name).write_bytes(content)
    options = ["masks", "--images", "images", "--masks", "masks", "--out", "out", "--workers", "0"]
    options = [str(tmp_path / o) if o in ("images", "masks", "out") else o for o in options]
    options[0] = "masks"
    assert main(options) == 0
    out = capsys.readouterr().out
    assert "1 image, 1 mask; skipped 1 image, 0 masks and 6 files" in out
    assert "skipped 1 image, no mask file: b.jpg" in out
    assert "skipped 1 file, mask file without a photo: c.png" in out
    for words in ("LabelMe's JSON", "YOLO's text file", "XML of boxes (VOC)", "CVAT's XML", "COCO JSON"):  # fmt: skip  # noqa: E501
        assert f"skipped 1 file, {words}" in out
    # The same folder without a single mask says what it has instead.
    for path in (tmp_path / "masks").glob("*.png"):
        path.unlink()
    assert main(options) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "LabelMe's JSON, not read here: `convert labelme`" in err


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("YOLOv8", "write it as yolo"), ("pascal_voc", "write it as voc"),
        ("roboflow", "its SAM 2 export sa1b"), ("via", "then `convert coco`"),
        ("SA-1B", "write it as sa1b"), ("COCO", "write it as coco"),
        ("nonsense", "use one of ade20k, bbbc038"), ("msaks", "did you mean masks?"),
    ],
)  # fmt: skip
def test_a_kind_that_is_not_there(kind: str, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([kind, "--images", "x", "--out", "y"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"there is no kind {kind}" in err
    assert way in err
