"""What mask files stand for by their values, against the masks they were made of."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFilter
from pycocotools import mask as coco_mask
from scipy import ndimage

from data_tools.convert import main

H, W = 96, 128
Mask = npt.NDArray[np.bool_]


def photo(path: Path, *, seed: int = 0, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def disc(y: float = 48, x: float = 60, radius: float = 30) -> Mask:
    rows, columns = np.mgrid[:H, :W]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2)


def black_and_white(mask: Mask) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def as_jpeg(image: Image.Image, quality: int = 85) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data)


def convert(root: Path, *more: object) -> tuple[int, Path]:
    out = root / "out"
    common = ["masks", "--images", root / "images", "--masks", root / "masks", "--out", out]
    return main([str(part) for part in (*common, *more, "--workers", "0")]), out


def found(out: Path) -> dict[str, list[Mask]]:
    """Masks by the stem of their photo."""
    names = dict(line.split("\t") for line in (out / "sources.tsv").read_text().splitlines()[1:])
    result = {}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                text = tar.extractfile(member)
                if not member.name.endswith(".json") or text is None:
                    continue
                record: dict[str, Any] = json.load(text)
                stem = Path(names[str(record["image"]["image_id"])]).stem
                result[stem] = [
                    coco_mask.decode(a["segmentation"]).astype(bool) for a in record["annotations"]
                ]
    return result


def iou(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / (a | b).sum())


def resized(mask: Mask, how: Image.Resampling, *, factor: int = 3) -> Image.Image:
    small = black_and_white(mask).resize((W // factor, H // factor), Image.Resampling.NEAREST)
    return small.resize((W, H), how)


SOFT: dict[str, Callable[[Mask], Image.Image]] = {
    "bilinear, from a third": lambda m: resized(m, Image.Resampling.BILINEAR),
    "bicubic, from a third": lambda m: resized(m, Image.Resampling.BICUBIC),
    "lanczos, from a third": lambda m: resized(m, Image.Resampling.LANCZOS),
    "jpeg 95": lambda m: as_jpeg(black_and_white(m), 95),
    "jpeg 40": lambda m: as_jpeg(black_and_white(m), 40),
    "jpeg of RGB": lambda m: as_jpeg(black_and_white(m).convert("RGB")),
    "blurred": lambda m: black_and_white(m).filter(ImageFilter.GaussianBlur(3)),
    "16 bits": lambda m: Image.fromarray(
        np.asarray(black_and_white(m).filter(ImageFilter.GaussianBlur(1))).astype(np.uint16) * 257
    ),
    "red on black": lambda m: Image.fromarray(
        np.asarray(as_jpeg(black_and_white(m)))[..., None] * np.array([1, 0, 0], np.uint8)
    ),
    "cut out": lambda m: Image.merge(
        "RGBA",
        [
            *Image.fromarray(
                np.random.default_rng(1).integers(0, 255, (H, W, 3), dtype=np.uint8)
            ).split(),
            black_and_white(m).filter(ImageFilter.GaussianBlur(1)),
        ],
    ),
    "halved by a box": lambda m: black_and_white(
        ndimage.zoom(m.astype(np.float32), 2, order=1) > 0.5
    ).resize((W, H), Image.Resampling.BOX),
}


@pytest.mark.parametrize("kind", SOFT)
def test_soft_edges_are_one_object(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = {"a": disc(), "b": disc(30, 40, 20) | disc(60, 90, 25), "c": disc(20, 20, 4)}
    for name, mask in shapes.items():
        photo(tmp_path / f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        SOFT[kind](mask).save(tmp_path / f"masks/{name}.png")
    status, out = convert(tmp_path)
    assert status == 0
    masks = found(out)
    for name, mask in shapes.items():
        assert len(masks[name]) == 1
        # A third of a small disc has few pixels left.
        assert iou(masks[name][0], mask) > (0.93 if name != "c" else 0.65)
    assert "3 mask files: " in capsys.readouterr().out


def test_a_soft_mask_is_cut_in_the_middle(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    soft = black_and_white(disc()).filter(ImageFilter.GaussianBlur(2))
    soft.save(tmp_path / "masks/a.png")
    _, out = convert(tmp_path)
    np.testing.assert_array_equal(found(out)["a"][0], np.asarray(soft) > 127)


def numbered(count: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """A label map of that many touching, nested and tiny objects."""
    points = np.random.default_rng(seed).integers(0, (H, W), (count, 2))
    places = np.zeros((H, W), dtype=np.int64)
    places[points[:, 0], points[:, 1]] = np.arange(1, count + 1)
    distance, nearest = ndimage.distance_transform_edt(places == 0, return_indices=True)
    return np.where(distance < 7, places[tuple(nearest)], 0)


ROWS, COLUMNS = np.mgrid[:H, :W]

LABELS: dict[str, npt.NDArray[Any]] = {
    "five": numbered(5).astype(np.uint8),
    "eighty that touch": numbered(80).astype(np.uint8),
    "four hundred, 16 bits": numbered(400).astype(np.uint16),
    "greys 50 apart": (numbered(5) * 50).astype(np.uint8),
    "32 bits": (numbered(30) * 70_000).astype(np.int32),
    "floats": numbered(9).astype(np.float32),
    "hairlines": np.where(ROWS % 4 == 1, ROWS // 4 + 1, 0).astype(np.uint8),
    "pixels": np.where((ROWS % 3 == 1) & (COLUMNS % 3 == 1), (ROWS * W + COLUMNS) % 250, 0).astype(
        np.uint8
    ),
    "classes side by side": (COLUMNS // 20).astype(np.uint8),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_label_maps_stay_label_maps(tmp_path: Path, kind: str, ending: str) -> None:
    labels = np.asarray(LABELS[kind])
    photo(tmp_path / "images/a.jpg")
    path = tmp_path / f"masks/a.{ending}"
    path.parent.mkdir()
    if ending == "npy":
        np.save(path, labels)
    elif ending == "png" and labels.dtype.itemsize > 2:
        pytest.skip("PNG has 16 bits at most")
    else:
        Image.fromarray(labels.astype(labels.dtype)).save(path)
    status, out = convert(tmp_path)
    assert status == 0
    expected = {(labels == value).tobytes() for value in np.unique(labels) if value}
    masks = found(out)["a"]
    assert len(masks) == len(expected)
    assert {mask.tobytes() for mask in masks} == expected


def test_a_black_and_white_file_among_label_maps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """{0, 128, 255} numbers two objects where other files number theirs; alone it is a trimap."""
    three = np.zeros((H, W), np.uint8)
    three[disc(radius=30)], three[disc(radius=20)] = 128, 255
    for name, labels in {"a": numbered(6).astype(np.uint8), "b": three}.items():
        photo(tmp_path / f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(labels).save(tmp_path / f"masks/{name}.png")
    _, out = convert(tmp_path, "--ignore", 0)
    assert {m.tobytes() for m in found(out)["b"]} == {(three == v).tobytes() for v in (128, 255)}
    (tmp_path / "masks/a.png").unlink()
    capsys.readouterr()
    _, out = convert(tmp_path)
    (mask,) = found(out)["b"]
    np.testing.assert_array_equal(mask, three == 255)
    assert "black, grey and white" in capsys.readouterr().out
    _, out = convert(tmp_path, "--layout", "labels")
    assert len(found(out)["b"]) == 2


def test_what_is_left_around_classes_is_no_object(tmp_path: Path) -> None:
    """VOC: class 15 with its border of 255; and -1, which says unlabelled."""
    labels = np.zeros((H, W), np.int32)
    labels[disc(radius=30)], labels[disc(radius=26)], labels[:9] = 255, 15, -1
    photo(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(labels).save(tmp_path / "masks/a.tif")
    _, out = convert(tmp_path)
    (mask,) = found(out)["a"]
    np.testing.assert_array_equal(mask, labels == 15)
    _, out = convert(tmp_path, "--ignore", 0)
    assert len(found(out)["a"]) == 3


def test_pets_trimap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 is the animal, 2 the ground, 3 the border; three classes that touch are three objects."""
    labels = np.full((H, W), 2, np.uint8)
    labels[disc(radius=33)], labels[disc(radius=30)] = 3, 1
    photo(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    Image.fromarray(labels).save(tmp_path / "masks/a.png")
    _, out = convert(tmp_path)
    (mask,) = found(out)["a"]
    np.testing.assert_array_equal(mask, labels == 1)
    assert "trimap of 1, 2 and 3" in capsys.readouterr().out
    touching = np.full((H, W), 3, np.uint8)
    touching[disc(radius=33)], touching[disc(radius=20)] = 1, 2
    Image.fromarray(touching).save(tmp_path / "masks/a.png")
    _, out = convert(tmp_path)
    assert len(found(out)["a"]) == 3


def test_black_objects_on_white(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {"a": disc(), "b": disc(40, 70, 20)}
    for name, mask in shapes.items():
        photo(tmp_path / f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        black_and_white(~mask).save(tmp_path / f"masks/{name}.png")
    _, out = convert(tmp_path)
    for name, mask in shapes.items():
        np.testing.assert_array_equal(found(out)[name][0], mask)
    assert "2 mask files: black on white" in capsys.readouterr().out
    _, out = convert(tmp_path, "--foreground", "bright")
    np.testing.assert_array_equal(found(out)["a"][0], ~shapes["a"])
    # One file that is white on black: the folder is not of one kind, so white it is, in all.
    black_and_white(shapes["b"]).save(tmp_path / "masks/b.png")
    _, out = convert(tmp_path)
    np.testing.assert_array_equal(found(out)["b"][0], shapes["b"])


def test_what_is_no_mask_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        photo(tmp_path / f"images/{name}.jpg")
    (tmp_path / "masks").mkdir()
    colours = np.array([[0, 0, 0], [200, 30, 30], [30, 200, 30], [30, 30, 200]], np.uint8)
    as_jpeg(Image.fromarray(colours[numbered(40) % 4])).save(tmp_path / "masks/a.png")
    ramp = np.add.outer(np.arange(H), np.arange(W))
    Image.fromarray((ramp + np.random.default_rng(0).integers(0, 30, (H, W))).astype(np.uint8)).save(tmp_path / "masks/b.png")  # fmt: skip  # noqa: E501
    classes = Image.fromarray((numbered(40) % 3 * 9).astype(np.uint8))
    classes.resize((W // 2, H // 2)).resize((W, H), Image.Resampling.BICUBIC).save(tmp_path / "masks/c.png")  # fmt: skip  # noqa: E501
    black_and_white(disc()).save(tmp_path / "masks/d.png")
    status, out = convert(tmp_path)
    assert status == 0
    assert list(found(out)) == ["d"]
    text = (out / "skipped.tsv").read_text()
    assert text.count("not a mask") == 3
    assert "looks like a photo" in text
    assert "edges of labels or colours were softened" in text


def test_regions_are_scipys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.random.default_rng(0).random((H, W)) > 0.995
    mask = ndimage.binary_dilation(mask, iterations=2)
    mask[0, 0] = mask[1, 1] = True  # touch at a corner
    labels = np.where(mask, 1 + (np.arange(W) > 60), 0).astype(np.uint8)
    for name, pixels in {"a": mask.astype(np.uint8) * 255, "b": labels}.items():
        photo(tmp_path / f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"masks/{name}.png")
    _, out = convert(tmp_path)
    assert len(found(out)["a"]) == 1
    assert "add --regions" in capsys.readouterr().out
    for connectivity, around in {4: None, 8: np.ones((3, 3))}.items():
        _, out = convert(tmp_path, "--regions", connectivity)
        expected = [
            place == k
            for value in (1, 2)
            for place, count in [ndimage.label(labels == value, around)]
            for k in range(1, count + 1)
        ]
        assert {m.tobytes() for m in found(out)["b"]} == {m.tobytes() for m in expected}
        count = ndimage.label(mask, around)[1]
        assert len(found(out)["a"]) == count
        assert sum(map(np.sum, found(out)["a"])) == mask.sum()
    assert "each connected region an object" in capsys.readouterr().out


def test_pages_are_objects(tmp_path: Path) -> None:
    shapes = [disc(), disc(30, 30, 9), disc(70, 100, 12)]
    for name in "abc":
        photo(tmp_path / f"images/{name}.jpg")
    (tmp_path / "masks").mkdir()
    pages = [black_and_white(mask) for mask in shapes]
    pages[0].save(tmp_path / "masks/a.tif", save_all=True, append_images=pages[1:])
    np.save(tmp_path / "masks/b.npy", np.stack(shapes))
    np.savez(tmp_path / "masks/c.npz", masks=np.stack(shapes).astype(np.uint8))
    _, out = convert(tmp_path)
    for name in "abc":
        assert [m.tobytes() for m in found(out)[name]] == [m.tobytes() for m in shapes]


def test_transparency_and_palettes(tmp_path: Path) -> None:
    mask = disc()
    grey = black_and_white(mask)
    files = {
        "la": Image.merge("LA", [Image.new("L", (W, H), 255), grey]),
        "rgba": Image.merge("RGBA", [*Image.new("RGB", (W, H), "white").split(), grey]),
        "bit": grey.convert("1"),
        "palette": grey.convert("P"),
        "opaque": grey.convert("RGBA"),
    }
    for name, image in files.items():
        photo(tmp_path / f"images/{name}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        image.save(tmp_path / f"masks/{name}.png")
    for ending in ("gif", "bmp", "webp", "jpg", "TIF"):
        photo(tmp_path / f"images/{ending}.jpg")
        grey.save(tmp_path / f"masks/{ending}.{ending}")
    _, out = convert(tmp_path)
    masks = found(out)
    assert masks.keys() == {*files, "gif", "bmp", "webp", "jpg", "TIF"}
    for name, objects in masks.items():
        assert len(objects) == 1, name
        assert iou(objects[0], mask) > 0.99, name


def test_drawn_with_smooth_lines(tmp_path: Path) -> None:
    """Vessels: thin strokes that were drawn larger and made small are grey for the most part."""
    large = Image.new("L", (4 * W, 4 * H))
    draw = ImageDraw.Draw(large)
    for k in range(5):
        draw.line([(20, 40 + 70 * k), (480, 10 + 60 * k)], fill=255, width=9)
    photo(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    small = large.resize((W, H), Image.Resampling.LANCZOS)
    small.save(tmp_path / "masks/a.png")
    _, out = convert(tmp_path)
    (mask,) = found(out)["a"]
    assert iou(mask, np.asarray(small) > 127) > 0.95


def test_one_file_that_looks_turned_over_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    black_and_white(~disc()).save(tmp_path / "masks/a.png")
    _, out = convert(tmp_path)
    np.testing.assert_array_equal(found(out)["a"][0], ~disc())
    assert "--foreground dark takes the black" in capsys.readouterr().out
    _, out = convert(tmp_path, "--foreground", "dark")
    np.testing.assert_array_equal(found(out)["a"][0], disc())


def test_pages_of_a_stack_have_pages_of_masks(tmp_path: Path) -> None:
    pages = [np.random.default_rng(k).integers(0, 4000, (H, W)).astype(np.uint16) for k in range(3)]
    shapes = [disc(), disc(30, 30, 9), disc(70, 100, 12)]
    for folder, name, frames in (
        ("images", "cells.tif", [Image.fromarray(page) for page in pages]),
        ("masks", "cells_masks.tif", [black_and_white(mask) for mask in shapes]),
    ):
        (tmp_path / folder).mkdir()
        frames[0].save(tmp_path / folder / name, save_all=True, append_images=frames[1:])
    _, out = convert(tmp_path)
    masks = found(out)
    assert len(masks) == 3
    for (_, objects), shape in zip(sorted(masks.items()), shapes, strict=True):
        (mask,) = objects
        np.testing.assert_array_equal(mask, shape)


@pytest.mark.parametrize("kind", ["int64", "uint64", "float64", "uint32", "float16"])
def test_numbers_of_any_width_in_a_tif(tmp_path: Path, kind: str) -> None:
    labels = numbered(6)
    photo(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks/a.tif", labels.astype(kind))
    _, out = convert(tmp_path)
    masks = {mask.tobytes() for mask in found(out)["a"]}
    assert masks == {(labels == value).tobytes() for value in np.unique(labels) if value}
