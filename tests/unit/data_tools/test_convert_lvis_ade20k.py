"""LVIS and ADE20K, against pycocotools, scipy and ADE20K's own instance files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from places import REAL_DATA
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from data_tools.convert import main
from sam_train.data.formats.ade20k import Ade20k

SHARED = REAL_DATA
ADE = SHARED / "ade20k/ADE20K_2021_17_01/images/ADE/training"
COCO128 = SHARED / "coco128"
H, W = 24, 32


def write_photo(path: Path, *, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (H, W, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def run(*args: object) -> int:
    return main([*map(str, args), "--workers", "0"])


def records(out: Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".json"):
                    text = tar.extractfile(member)
                    assert text is not None
                    found.append(json.load(text))
    return found


def masks_of(record: dict[str, Any]) -> list[npt.NDArray[np.bool_]]:
    return [coco_mask.decode(a["segmentation"]).astype(bool) for a in record["annotations"]]


def as_set(masks: list[npt.NDArray[np.bool_]]) -> set[bytes]:
    return {mask.tobytes() for mask in masks}


# --- LVIS -------------------------------------------------------------------------------------

URL = "http://images.cocodataset.org/{}"


def lvis_json(folder: Path, images: list[dict[str, Any]], annotations: list[Any]) -> Path:
    path = folder / "lvis_v1_val.json"
    sizes = [image | {"height": H, "width": W} for image in images]
    extra = {"info": {}, "licenses": [], "categories": [{"id": 1, "synset": "dog.n.01"}]}
    path.write_text(json.dumps({"images": sizes, "annotations": annotations} | extra))
    return path


@pytest.fixture
def lvis(tmp_path: Path) -> Path:
    """Photos of both of COCO's folders, as in LVIS's validation set."""
    write_photo(tmp_path / "coco/train2017/000000000001.jpg", seed=1)
    write_photo(tmp_path / "coco/val2017/000000000002.jpg", seed=2)
    rle: Any = coco_mask.encode(np.asfortranarray(np.eye(H, W, dtype=np.uint8)))
    rle["counts"] = rle["counts"].decode()
    triangle = [[3.2, 4.1, 20.7, 5.0, 15.5, 19.9], [22.0, 2.0, 30.0, 2.0, 30.0, 8.5]]
    images = [
        {"id": 1, "coco_url": URL.format("train2017/000000000001.jpg"),
         "neg_category_ids": [3, 4], "not_exhaustive_category_ids": [5]},
        {"id": 2, "coco_url": URL.format("val2017/000000000002.jpg"), "neg_category_ids": []},
        {"id": 3, "coco_url": URL.format("val2017/000000000003.jpg"), "neg_category_ids": []},
    ]  # fmt: skip
    annotations = [
        {"id": 11, "image_id": 1, "category_id": 1, "segmentation": triangle, "area": 9.5},
        {"id": 12, "image_id": 2, "category_id": 1, "segmentation": rle},
        {"id": 13, "image_id": 2, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]},
        {"id": 14, "image_id": 3, "category_id": 1, "segmentation": triangle},
        {"id": 15, "image_id": 2, "category_id": 1, "segmentation": [[1, 1]]},
    ]
    lvis_json(tmp_path, images, annotations)
    return tmp_path


def test_lvis_masks_are_pycocotools(lvis: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lvis / "lvis_v1_val.json"
    options = ("--images", lvis / "coco", "--annotations", path, "--out", lvis / "out")
    assert run("lvis", *options) == 0
    found = records(lvis / "out")
    assert [[a["id"] for a in record["annotations"]] for record in found] == [[11], [12, 13]]
    api = COCO(str(path))
    for record in found:
        for annotation, mask in zip(record["annotations"], masks_of(record), strict=True):
            expected = api.annToMask(api.anns[annotation["id"]]).astype(bool)
            np.testing.assert_array_equal(mask, expected)
    sources = (lvis / "out/sources.tsv").read_text().splitlines()[1:]
    assert sources == ["1\ttrain2017/000000000001.jpg", "2\tval2017/000000000002.jpg"]
    out = capsys.readouterr().out
    assert "missing image: val2017/000000000003.jpg" in out
    assert "bad segmentation: val2017/000000000002.jpg: annotation 15" in out


def test_lvis_photos_in_one_folder(lvis: Path) -> None:
    for path in (lvis / "coco").glob("*/*.jpg"):
        path.rename(lvis / "coco" / path.name)
    options = ("--images", lvis / "coco", "--annotations", lvis / "lvis_v1_val.json")
    assert run("lvis", *options, "--out", lvis / "out") == 0
    sources = (lvis / "out/sources.tsv").read_text().splitlines()[1:]
    assert sources == ["1\t000000000001.jpg", "2\t000000000002.jpg"]


def test_lvis_without_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lvis_json(tmp_path, [{"id": 1, "file_name": "a.jpg"}, {"id": 7}], [])
    options = ("--images", tmp_path, "--annotations", path, "--out", tmp_path / "out")
    assert run("lvis", *options) == 2
    assert "skipped 1 image, no file_name: lvis_v1_val.json: image 7" in capsys.readouterr().err
    path.write_text(json.dumps({"images": [{"id": 7}], "annotations": []}))
    assert run("lvis", *options) == 2
    assert "its images have neither file_name nor coco_url" in capsys.readouterr().err
    path.write_text("[]")
    assert run("lvis", *options) == 2
    assert "not a LVIS instances file" in capsys.readouterr().err


@pytest.mark.skipif(not COCO128.is_dir(), reason=f"COCO128 is not beside the checkout ({COCO128})")
def test_lvis_on_real_photos_is_coco(tmp_path: Path) -> None:
    """COCO128 rewritten in LVIS's form gives the masks that its COCO form gives."""
    content = json.loads((COCO128 / "instances.json").read_text())
    content["images"] = content["images"][:12]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] in kept and not a["iscrowd"]
    ]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    for image in content["images"]:
        image["coco_url"] = URL.format(f"val2017/{Path(image.pop('file_name')).name}")
        image["neg_category_ids"] = [1]
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    for kind in ("coco", "lvis"):
        options = ("--images", COCO128 / "images", "--annotations", tmp_path / f"{kind}.json")
        assert run(kind, *options, "--out", tmp_path / kind) == 0
    found = records(tmp_path / "lvis")
    assert sum(len(record["annotations"]) for record in found) > 30
    assert found == records(tmp_path / "coco")


# --- ADE20K -----------------------------------------------------------------------------------


def test_ade20k_objects_and_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photo(tmp_path / "ade/street/x.jpg")
    seg = np.zeros((H, W, 3))
    seg[2:20, 2:12] = (10, 45, 85)
    seg[2:20, 20:30] = (10, 45, 170)  # the same class, another instance
    seg[22:, :] = (20, 7, 85)  # another class that shares its blue
    seg[0, 0] = (10, 45, 0)  # a class but no instance
    write_png(tmp_path / "ade/street/x_seg.png", seg)
    parts = np.zeros((H, W, 3))
    parts[4:8, 3:6] = (0, 9, 255)
    write_png(tmp_path / "ade/street/x_parts_1.png", parts)
    (tmp_path / "ade/street/x_parts_2.png").write_bytes(b"\x89PNG and no more")
    write_png(tmp_path / "ade/street/x/instance_000_x.png", np.zeros((H, W)))
    write_photo(tmp_path / "ade/street/y.jpg")
    assert run("ade20k", "--images", tmp_path / "ade", "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "no mask file: street/y.jpg" in out
    assert "skipped 1 mask, unreadable mask file" in out
    blue, red = seg[..., 2], seg[..., 0]
    objects = [(blue == 85) & (red == 10), blue == 170, red == 20]
    (record,) = records(tmp_path / "out")
    assert as_set(masks_of(record)) == as_set([*objects, parts[..., 2] > 0])
    options = ("--images", tmp_path / "ade", "--no-parts", "--out", tmp_path / "objects")
    assert run("ade20k", *options) == 0
    assert as_set(masks_of(records(tmp_path / "objects")[0])) == as_set(objects)


def test_scene_parsing_regions(tmp_path: Path) -> None:
    write_photo(tmp_path / "images/validation/a.jpg")
    classes = np.zeros((H, W))
    classes[2:8, 2:8] = 5
    classes[8:12, 8:12] = 5  # touches the first only at a corner
    classes[2:8, 20:30] = 5
    classes[4:6, 22:24] = 150
    write_png(tmp_path / "annotations/validation/a.png", classes)
    options = ("--images", tmp_path / "images", "--masks", tmp_path / "annotations")
    assert run("ade20k", *options, "--out", tmp_path / "out") == 0
    (record,) = records(tmp_path / "out")
    expected = [np.zeros((H, W), dtype=bool) for _ in range(4)]
    expected[0][2:8, 2:8] = True
    expected[1][8:12, 8:12] = True
    expected[2][2:8, 20:30] = True
    expected[2][4:6, 22:24] = False
    expected[3][4:6, 22:24] = True
    assert len(record["annotations"]) == 4
    assert as_set(masks_of(record)) == as_set(expected)


@pytest.mark.skipif(not ADE.is_dir(), reason=f"ADE20K's photos are not beside the checkout ({ADE})")
def test_ade20k_masks_are_its_own_instance_files() -> None:
    """Each object and part of a real photo, against the file of its visible pixels."""
    listing = Ade20k().list(ADE, ADE)
    assert len(listing.records) == 3
    record = listing.records[1]
    read = record.masks()
    found = {coco_mask.decode(m.segmentation).astype(bool).tobytes() for m in read.masks}
    files = sorted(record.image.with_suffix("").glob("instance_*.png"))
    visible = [np.asarray(Image.open(io.BytesIO(file.read_bytes()))) == 255 for file in files]
    assert len(read.masks) == len(files) == 37
    assert {np.ascontiguousarray(mask).tobytes() for mask in visible} == found
