"""Every reader: what goes in is used or left out, counted and named, file by file."""

from __future__ import annotations

import csv
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from data_tools.convert import main

H, W = 24, 32


@dataclass
class Source:
    """A folder in which one thing of each kind is wrong, and what it holds."""

    args: list[str]
    photos: set[str]
    """Names below --images of all photos that are there or should be."""
    good: set[str]
    """Those that are converted."""
    masks_in: int
    masks_out: Counter[str]
    """Masks left out, by reason."""
    images_out: Counter[str]
    files_out: list[str] = field(default_factory=list)
    """Names of files that are no photo of the above and stay unused."""


def photo(path: Path, *, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write(path: Path, content: bytes = b"nothing of use") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def labels(count: int, *, width: int = W) -> npt.NDArray[np.uint8]:
    """`count` objects of 2 x 5 pixels, numbered from 1."""
    result = np.zeros((H, width), dtype=np.uint8)
    for number in range(1, count + 1):
        result[3 * number : 3 * number + 2, 4:9] = number
    return result


def encoded(mask: npt.NDArray[np.uint8]) -> Any:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def broken_photos(images: Path, *names: str) -> None:
    for name in names:
        write(images / name, b"\xff\xd8 and no more")


def masks_source(root: Path) -> Source:
    """Label maps; files of the wrong size, damaged, empty, a photo; a photo alone, a mask alone."""
    images, masks = root / "images", root / "masks"
    sizes = {"good": 3, "wide": 2, "cut": 0, "black": 0, "grey": 0, "torn": 2}
    for name, count in sizes.items():
        photo(images / f"{name}.jpg")
        save(masks / f"{name}.png", labels(count, width=W + 1 if name == "wide" else W))
    photo(images / "alone.jpg")
    photo(images / "good.png")
    broken_photos(images, "torn.jpg")
    write(masks / "cut.png", (masks / "good.png").read_bytes()[:50])
    noise = np.random.default_rng(0).normal(128, 40, (H, W)).clip(0, 255)
    save(masks / "grey.png", noise.astype(np.uint8))
    save(masks / "nobody.png", labels(1))
    save(masks / "good.tif", labels(1))
    write(masks / "good.json", b'{"shapes": [], "imagePath": "good.jpg"}')
    # One name in both folders is two files.
    write(images / "notes.txt")
    write(masks / "notes.txt")
    return Source(
        args=["masks", "--images", str(images), "--masks", str(masks)],
        photos={*(f"{name}.jpg" for name in sizes), "alone.jpg", "good.png"},
        good={"good.jpg"},
        masks_in=3 + 2 + 2 + 1,
        masks_out=Counter(
            {"size differs from the image's": 2, "its image was left out": 2, "empty": 1}
        ),
        images_out=Counter(
            {
                "no mask left": 1, "unreadable mask file": 1, "no mask": 1, "not a mask": 1,
                "unreadable image": 1, "no mask file": 1, "duplicate name": 1,
            }
        ),
        files_out=["nobody.png", "good.tif", "good.json", "notes.txt", "notes.txt"],
    )  # fmt: skip


def ade20k_source(root: Path) -> Source:
    """SceneParsing: class maps whose regions are masks."""
    images, masks = root / "images", root / "annotations"
    for name, count in {"good": 3, "wide": 2, "torn": 2, "cut": 0, "black": 0}.items():
        photo(images / f"{name}.jpg")
        save(masks / f"{name}.png", labels(count, width=W + 1 if name == "wide" else W))
    broken_photos(images, "torn.jpg")
    photo(images / "alone.jpg")
    write(masks / "cut.png", b"\x89PNG")
    save(masks / "nobody.png", labels(1))
    write(images / "notes.txt")
    return Source(
        args=["ade20k", "--images", str(images), "--masks", str(masks)],
        photos={f"{n}.jpg" for n in ("good", "wide", "torn", "cut", "black", "alone")},
        good={"good.jpg"},
        masks_in=3 + 2 + 2,
        masks_out=Counter({"size differs from the image's": 2, "its image was left out": 2}),
        images_out=Counter(
            {
                "no mask left": 1, "unreadable image": 1, "unreadable mask file": 1, "no mask": 1,
                "no mask file": 1,
            }
        ),
        files_out=["nobody.png", "notes.txt"],
    )  # fmt: skip


def cityscapes_source(root: Path) -> Source:
    """Road, a car, a group of cars and the ego vehicle in each photo that has a file."""
    images, truth = root / "leftImg8bit", root / "gtFine"
    ids = np.full((H, W), 7, dtype=np.uint16)
    ids[2:5, 2:5], ids[8:10, 3:9], ids[20:] = 26000, 26, 1
    for name in ("good", "torn", "cut"):
        photo(images / f"a/{name}_leftImg8bit.png")
        save(truth / f"a/{name}_gtFine_instanceIds.png", ids)
    broken_photos(images, "a/torn_leftImg8bit.png")
    write(truth / "a/cut_gtFine_instanceIds.png", b"\x89PNG")
    photo(images / "a/alone_leftImg8bit.png")
    photo(images / "a/other.png")
    save(truth / "a/nobody_gtFine_instanceIds.png", ids)
    write(truth / "a/good_gtFine_polygons.json", b"{}")
    names = ("good", "torn", "cut", "alone")
    return Source(
        args=["cityscapes", "--images", str(images), "--masks", str(truth)],
        photos={*(f"a/{n}_leftImg8bit.png" for n in names), "a/other.png"},
        good={"a/good_leftImg8bit.png"},
        masks_in=4 + 4,
        masks_out=Counter(
            {"crowd": 2, "class that the evaluation ignores": 2, "its image was left out": 2}
        ),
        images_out=Counter(
            {
                "unreadable image": 1, "unreadable mask file": 1, "no mask file": 1,
                "name does not end in _leftImg8bit": 1,
            }
        ),
        files_out=["a/nobody_gtFine_instanceIds.png", "a/good_gtFine_polygons.json"],
    )  # fmt: skip


def bbbc038_source(root: Path) -> Source:
    """A file per nucleus: good, empty, damaged, of another size."""
    one = (labels(1) * 255).astype(np.uint8)
    for name in ("good", "torn"):
        photo(root / f"{name}/images/{name}.png")
        save(root / f"{name}/masks/0.png", one)
    save(root / "good/masks/1.png", one * 0)
    save(root / "good/masks/2.png", np.full((H, W + 1), 255, np.uint8))
    write(root / "good/masks/3.png", b"\x89PNG")
    write(root / "good/masks/notes.txt")
    photo(root / "good/images/second.png")
    broken_photos(root, "torn/images/torn.png")
    photo(root / "alone/images/alone.png")
    save(root / "nobody/masks/0.png", one)
    write(root / "README.md")
    return Source(
        args=["bbbc038", "--images", str(root)],
        photos={
            "good/images/good.png", "good/images/second.png", "torn/images/torn.png", "alone",
            "nobody",
        },
        good={"good/images/good.png"},
        masks_in=4 + 1,
        masks_out=Counter(
            {
                "empty": 1, "size differs from the image's": 1, "unreadable mask file": 1,
                "its image was left out": 1,
            }
        ),
        images_out=Counter(
            {
                "a second photo of its folder": 1, "unreadable image": 1, "no mask file": 1,
                "no photo": 1,
            }
        ),
        files_out=["good/masks/notes.txt", "README.md"],
    )  # fmt: skip


def save_mat(path: Path, maps: list[npt.NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    people = np.empty((1, len(maps)), dtype=object)
    for k, segments in enumerate(maps):
        person = np.empty((1, 1), dtype=[("Segmentation", object)])
        person[0, 0] = (segments.astype(np.uint16),)
        people[0, k] = person
    savemat(path, {"groundTruth": people})


def bsds_source(root: Path) -> Source:
    """Two people who cut alike; a file that is no .mat, one of another size."""
    images, truth = root / "images", root / "gt"
    for name in ("good", "cut", "alone", "torn", "wide"):
        photo(images / f"{name}.jpg")
    photo(images / "good.png")
    broken_photos(images, "torn.jpg")
    for name in ("good", "torn", "wide", "nobody"):
        segments = labels(2, width=W + 1 if name == "wide" else W) + 1
        save_mat(truth / f"{name}.mat", [segments] * (2 if name == "good" else 1))
    write(truth / "cut.mat")
    write(truth / "notes.txt")
    return Source(
        args=["bsds", "--images", str(images), "--ground-truth", str(truth)],
        photos={*(f"{n}.jpg" for n in ("good", "cut", "alone", "torn", "wide")), "good.png"},
        good={"good.jpg"},
        masks_in=6 + 3 + 3,
        masks_out=Counter(
            {
                "merged with a near-identical one": 3, "its image was left out": 3,
                "size differs from the image's": 3,
            }
        ),
        images_out=Counter(
            {
                "unreadable .mat": 1, "no .mat file": 1, "unreadable image": 1, "no mask left": 1,
                "duplicate name": 1,
            }
        ),
        files_out=["nobody.mat", "notes.txt"],
    )  # fmt: skip


def rle_source(root: Path) -> Source:
    """Run lengths: good, of another size, cut off, empty; a photo that is missing or not named."""
    images = root / "images"
    for name in ("good", "torn", "unnamed", "bare"):
        photo(images / f"{name}.jpg")
    broken_photos(images, "torn.jpg")
    write(images / "notes.txt")
    one, none = encoded(labels(1)), encoded(labels(0))
    content = {
        "good": {"size": [H, W], "counts": [one["counts"], "cut off~", none["counts"]]},
        "torn": {"size": [H, W], "counts": [one["counts"]]},
        "gone.jpg": {"size": [H, W], "counts": []},
        "bare": {"size": [H, W], "counts": []},
    }
    (root / "m.json").write_text(json.dumps(content))
    return Source(
        args=["rle", "--images", str(images), "--masks", str(root / "m.json")],
        photos={"good.jpg", "torn.jpg", "unnamed.jpg", "gone.jpg", "bare.jpg"},
        good={"good.jpg"},
        masks_in=4,
        masks_out=Counter({"bad RLE": 1, "empty": 1, "its image was left out": 1}),
        images_out=Counter(
            {
                "unreadable image": 1, "not named in the JSON": 1, "missing image": 1,
                "no mask": 1,
            }
        ),
        files_out=["notes.txt"],
    )  # fmt: skip


def coco_content(root: Path) -> dict[str, Any]:
    images = root / "images"
    for name in ("good", "torn", "bare"):
        photo(images / f"{name}.jpg")
    broken_photos(images, "torn.jpg")
    write(images / "notes.txt")
    names = ("good", "torn", "bare", "gone")
    found = [{"id": k, "file_name": f"{name}.jpg"} for k, name in enumerate(names, start=1)]
    one, none = encoded(labels(1)), encoded(labels(0))
    annotations = [
        {"id": 1, "image_id": 1, "segmentation": one},
        {"id": 2, "image_id": 1, "segmentation": one, "iscrowd": 1},
        {"id": 3, "image_id": 1, "segmentation": none},
        {"id": 4, "image_id": 1, "segmentation": [[1, 2]]},
        {"id": 5, "image_id": 1, "segmentation": encoded(np.ones((3, 3), np.uint8))},
        {"id": 6, "image_id": 2, "segmentation": one},
        {"id": 7, "image_id": 4, "segmentation": one},
        {"id": 8, "image_id": 99, "segmentation": one},
    ]
    return {
        "images": [image | {"height": H, "width": W} for image in found],
        "annotations": annotations,
    }


def coco_source(root: Path, kind: str = "coco") -> Source:
    """A crowd, an empty and a bad mask, one of another size, of a torn, missing, unknown photo."""
    path = root / "instances.json"
    path.write_text(json.dumps(coco_content(root)))
    return Source(
        args=[kind, "--images", str(root / "images"), "--annotations", str(path)],
        photos={"good.jpg", "torn.jpg", "bare.jpg", "gone.jpg"},
        good={"good.jpg"},
        masks_in=8,
        masks_out=Counter(
            {
                "crowd": 1, "empty": 1, "bad segmentation": 1, "size differs from the image's": 1,
                "its image was left out": 2, "unknown image_id": 1,
            }
        ),
        images_out=Counter({"unreadable image": 1, "no mask": 1, "missing image": 1}),
        files_out=["notes.txt"],
    )  # fmt: skip


def lvis_source(root: Path) -> Source:
    """The same in LVIS's form."""
    return coco_source(root, "lvis")


SOURCES: dict[str, Callable[[Path], Source]] = {
    "masks": masks_source, "ade20k": ade20k_source, "cityscapes": cityscapes_source,
    "bbbc038": bbbc038_source, "bsds": bsds_source, "rle": rle_source, "coco": coco_source,
    "lvis": lvis_source,
}  # fmt: skip


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def written_masks(out: Path) -> int:
    total = 0
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                text = tar.extractfile(member) if member.name.endswith(".json") else None
                total += len(json.load(text)["annotations"]) if text else 0
    return total


@pytest.mark.parametrize("kind", SOURCES)
def test_in_is_used_and_left_out(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source").mkdir()
    source = SOURCES[kind](tmp_path / "source")
    out = tmp_path / "out"
    assert main([*source.args, "--out", str(out), "--workers", "0"]) == 0

    skipped = rows(out / "skipped.tsv")
    by_kind = {k: Counter(row[1] for row in skipped if row[0] == k) for k in ("image", "mask")}
    used = {row[1] for row in rows(out / "sources.tsv")}
    left_out = [row[2].split(": ")[0].split(" (")[0] for row in skipped if row[0] == "image"]
    stems = {name.rsplit(".", 1)[0]: name for name in source.photos}
    left_out = [name if name in source.photos else stems.get(name, name) for name in left_out]

    assert used == source.good
    # A file that is no photo of the data set may be an image or a file: it is left out once.
    others = [row[2].split(": ")[0] for row in skipped if row[0] == "file"]
    others += [name for name in left_out if name in source.files_out]
    assert sorted(others) == sorted(source.files_out)
    assert sorted([*used, *(n for n in left_out if n not in source.files_out)]) == sorted(
        source.photos
    )
    assert not source.images_out - by_kind["image"]
    assert by_kind["mask"] == source.masks_out
    masks = written_masks(out)
    assert masks + by_kind["mask"].total() == source.masks_in

    # The three places that say it agree.
    stamp = json.loads((out / "convert.json").read_text())
    assert (stamp["images"], stamp["masks"]) == (len(used), masks)
    counted = Counter({(r["kind"], r["reason"]): r["count"] for r in stamp["skipped"]})
    assert counted == Counter((row[0], row[1]) for row in skipped)
    totals = Counter(row[0] for row in skipped)
    line = next(x for x in capsys.readouterr().out.splitlines() if "; skipped " in x)
    for what in totals:
        assert f"{totals[what]} {what}" in line
