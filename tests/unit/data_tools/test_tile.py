"""Tiles against plain slices of numpy arrays, pycocotools and Pillow."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools.tile import main
from data_tools.tiles.georeference import georeference
from sam_train.data.formats.records import SourceMask
from sam_train.data.photos.files import opened
from sam_train.data.tiles.grid import Window, window_rows
from sam_train.data.tiles.objects import SceneObject
from sam_train.generate.inputs import list_photos
from sam_train.masks.runs import polygons_rle

SCALE, TIEPOINT, MATRIX, KEYS = 33550, 33922, 34264, 34735
H, W = 150, 260


def encode(mask: npt.NDArray[Any]) -> Any:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def scene_labels() -> npt.NDArray[np.uint8]:
    """Twenty rectangles, one of them long, one over many tiles."""
    rng = np.random.default_rng(0)
    labels = np.zeros((H, W), np.uint8)
    labels[60:64, 5:255] = 19
    labels[90:140, 100:240] = 20
    for k in range(1, 19):
        y, x = rng.integers(0, H - 12), rng.integers(0, W - 12)
        labels[y : y + rng.integers(2, 12), x : x + rng.integers(2, 12)] = k
    return labels


def scene_photo() -> npt.NDArray[np.uint8]:
    ramps = np.mgrid[0:H, 0:W]
    return np.dstack([ramps[0], ramps[1] % 256, np.full((H, W), 90)]).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scenes and a small photo, with label maps."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    labels = scene_labels()
    tags = [
        (SCALE, 12, 3, (0.5, 0.25, 0.0), True),
        (TIEPOINT, 12, 6, (0.0, 0.0, 0.0, 1000.0, 2000.0, 0.0), True),
        (KEYS, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True),
    ]
    tifffile.imwrite(
        tmp_path / "images/a.tif", scene_photo(), photometric="rgb", extratags=tags,
        tile=(64, 64), compression="deflate",
    )  # fmt: skip
    Image.fromarray(scene_photo()).save(tmp_path / "images/b.png")
    Image.fromarray(scene_photo()[:30, :40]).save(tmp_path / "images/small.png")
    for name in ("a", "b"):
        Image.fromarray(labels).save(tmp_path / f"masks/{name}.png")
    small = np.zeros((30, 40), np.uint8)
    small[5:20, 5:30] = 1
    Image.fromarray(small).save(tmp_path / "masks/small.png")
    return tmp_path


def tile(folder: Path, *more: object) -> int:
    command = ["masks", "--images", folder / "images", "--masks", folder / "masks", *more]
    return main([*map(str, command), "--workers", "2"])


def table(path: Path) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in path.read_text().splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_tiles(out: Path) -> dict[int, tuple[npt.NDArray[np.uint8], list[dict[str, Any]]]]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames()[::2]:
                jpeg, text = (
                    tar.extractfile(f"{name[:-4]}{ending}") for ending in (".jpg", ".json")
                )
                assert jpeg is not None and text is not None
                pixels = np.asarray(Image.open(io.BytesIO(jpeg.read())))
                record = json.loads(text.read())
                found[record["image"]["image_id"]] = (pixels, record["annotations"])
    return found


def test_every_pixel_lies_in_a_tile_and_neighbours_overlap() -> None:
    for height, width, size, overlap in ((10, 7, 16, 3), (100, 65, 16, 4), (64, 64, 16, 0)):
        seen = np.zeros((height, width), int)
        rows = window_rows(height=height, width=width, size=size, overlap=overlap)
        for row in rows:
            for w in row:
                assert (w.width, w.height) == (min(size, width), min(size, height))
                assert w.x + w.width <= width and w.y + w.height <= height
                seen[w.y : w.y + w.height, w.x : w.x + w.width] += 1
            for left, right in pairwise(row):
                assert left.x + left.width - right.x >= overlap
                assert right.x > left.x
        assert seen.min() == 1


def test_parts_of_masks_are_slices() -> None:
    rng = np.random.default_rng(1)
    for _ in range(150):
        height, width = rng.integers(1, 30, 2)
        mask = rng.random((height, width)) < rng.choice([0.05, 0.5, 0.95, 1.0])
        if not mask.any():
            continue
        whole = SceneObject.of(SourceMask(name="m", segmentation=encode(mask)))
        assert whole.area == mask.sum()
        ys, xs = np.nonzero(mask)
        assert whole.box() == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
        part = whole.within(Window(x=x, y=y, width=w, height=h))
        assert part.encoded(height=h, width=w) == encode(mask[y : y + h, x : x + w])


def test_polygons_of_large_scenes_are_pycocotools() -> None:
    rng = np.random.default_rng(2)
    differing = 0
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(5, 60, 2))
        corners = [
            (rng.random(2 * n) * 1.5 * max(height, width) - 9).round(2).tolist()
            for n in rng.integers(3, 8, 2)
        ]
        whole = coco_mask.merge(coco_mask.frPyObjects(corners, height, width))
        slab = int(rng.integers(height, height * width + 1))
        found = polygons_rle(corners, height=height, width=width, slab=slab)
        differing += int((coco_mask.decode(found) != coco_mask.decode(whole)).sum())
    assert differing == 0


def test_tiles_are_slices_of_photo_and_labels(folder: Path) -> None:
    out = folder / "out"
    assert tile(folder, "--out", out, "--size", 64, "--overlap", 16, "--min-visible", 0) == 0
    labels, photo = scene_labels(), scene_photo()
    tiles = {int(row["image_id"]): row for row in table(out / "tiles.tsv")}
    parts = table(out / "objects.tsv")
    found = read_tiles(out)
    assert set(found) == set(tiles) == {int(row["image_id"]) for row in parts}
    for number, (pixels, masks) in found.items():
        row = tiles[number]
        x, y, w, h = (int(row[key]) for key in ("x", "y", "width", "height"))
        if row["scene"] == "small.png":
            assert (w, h) == (40, 30)
            continue
        assert (w, h) == (64, 64)
        here = labels[y : y + h, x : x + w]
        assert np.abs(pixels.astype(int) - photo[y : y + h, x : x + w]).max() <= 24
        mine = [part for part in parts if int(part["image_id"]) == number]
        assert len(mine) == len(masks) == int(row["masks"])
        values = [int(part["object"].rsplit(" ", 1)[1]) for part in mine]
        assert sorted(values) == sorted(set(np.unique(here).tolist()) - {0})
        for part, value, annotation in zip(mine, values, masks, strict=True):
            assert int(part["mask_id"]) == annotation["id"]
            mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
            np.testing.assert_array_equal(mask, here == value)
            share = (here == value).sum() / (labels == value).sum()
            assert float(part["visible"]) == pytest.approx(share, rel=1e-3)
    # No larger than the overlap: whole somewhere.
    for scene in ("a.png", "b.png"):
        for value in range(1, 19):
            if (labels == value).any():
                shares = [
                    float(p["visible"]) for p in parts if p["object"] == f"{scene}: label {value}"
                ]
                assert max(shares) == 1


def test_small_parts_and_empty_tiles_are_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, labels = folder / "out", scene_labels()
    options = ("--size", 64, "--overlap", 16, "--min-visible", 0.3)
    assert tile(folder, "--out", out, *options) == 0
    printed = capsys.readouterr().out
    kept = small = empty = 0
    shown: dict[int, float] = {}
    for row in window_rows(height=H, width=W, size=64, overlap=16):
        for w in row:
            here = labels[w.y : w.y + w.height, w.x : w.x + w.width]
            masks = 0
            for value in set(np.unique(here).tolist()) - {0}:
                area, whole = (here == value).sum(), (labels == value).sum()
                if area < 0.3 * min(whole, 64 * 64):
                    small += 1
                else:
                    masks += 1
                    shown[value] = max(shown.get(value, 0), area / whole)
            kept += masks
            empty += masks == 0
    hidden = set(np.unique(labels).tolist()) - {0} - set(shown)
    cut = [value for value, share in shown.items() if share < 1]
    objects = len(shown) + len(hidden)
    assert f"left out {2 * small} parts of objects: below --min-visible 0.3" in printed
    assert f"{2 * len(cut)} objects whole in no tile" in printed
    tiles = len(table(out / "tiles.tsv"))
    assert f"3 scenes with {2 * objects + 1} objects cut into {tiles} tiles" in printed
    assert f"with {2 * kept + 1} masks; left out {2 * empty} tiles without a mask" in printed
    lost = [r["name"] for r in table(out / "skipped.tsv") if r["reason"].startswith("no tile")]
    assert len(lost) == 2 * len(hidden)
    assert hidden  # the long one is nowhere a third of itself
    assert tile(folder, "--out", out, *options) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[:-1] == printed.splitlines()[:-1]
    assert "nothing to do" in again


def test_where_tiles_lie_on_earth(folder: Path) -> None:
    out = folder / "out"
    assert tile(folder, "--out", out, "--size", 64, "--overlap", 16) == 0
    rows = table(out / "tiles.tsv")
    for row in rows:
        if row["scene"] == "a.tif":
            x, y = 1000 + 0.5 * int(row["x"]), 2000 - 0.25 * int(row["y"])
            assert row["geotransform"] == f"{x:.15g} 0.5 0 {y:.15g} 0 -0.25"
            assert row["crs"] == "EPSG:32633"
        else:
            assert row["geotransform"] == row["crs"] == ""


def test_georeferences_of_every_form(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.zeros((4, 4), np.uint8)
    matrix = (2.0, 0.1, 0, 50.0, 0.2, -3.0, 0, 70.0, 0, 0, 0, 0, 0, 0, 0, 1)
    point = (1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326)
    tags = [(MATRIX, 12, 16, matrix, True), (KEYS, 3, 12, point, True)]
    tifffile.imwrite(path, pixels, extratags=tags)
    found = georeference(path)
    assert found is not None
    # A pixel's place is its middle there: half a pixel before it begins the picture.
    assert found.transform == pytest.approx((50 - 1.05, 2, 0.1, 70 + 1.4, 0.2, -3))
    assert found.crs == "EPSG:4326"
    tifffile.imwrite(path, pixels)
    assert georeference(path) is None
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-2\n101\n199\n")
    found = georeference(path)
    assert found is not None
    assert found.transform == (100, 2, 0, 200, 0, -2)
    assert found.of(Window(x=10, y=5, width=1, height=1)) == (120, 2, 0, 190, 0, -2)


def test_a_scene_is_on_one_side_of_a_split(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    assert tile(folder, "--out", out, "--size", 64, "--split", "val=0.3") == 0
    sides = [{row["scene"] for row in table(out / side / "tiles.tsv")} for side in ("train", "val")]
    assert len(sides[1]) == 1
    assert sides[0] | sides[1] == {"a.tif", "b.png", "small.png"}
    assert sides[0] & sides[1] == set()
    (folder / "val.txt").write_text("# mine\nb\nsmall.png\n")
    listed = folder / "listed"
    split = f"val={folder / 'val.txt'}"
    assert tile(folder, "--out", listed, "--size", 64, "--split", split) == 0
    assert {row["scene"] for row in table(listed / "val/tiles.tsv")} == {"b.png", "small.png"}
    capsys.readouterr()
    (folder / "val.txt").write_text("c.png\n")
    for text, message in {
        split: "names c.png, which is no scene",
        "val=1.5": "must lie between 0 and 1",
        "test=0.1": "say val=SHARE",
    }.items():
        assert tile(folder, "--out", folder / "x", "--size", 64, "--split", text) == 2
        assert message in capsys.readouterr().err
    assert tile(folder, "--out", folder / "x", "--limit", 1, "--split", "val=0.5") == 2
    assert "a scene's tiles stay on one side" in capsys.readouterr().err


def test_all_tiles_of_a_scene_are_stretched_alike(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    deep = np.tile(np.linspace(100, 4000, W), (H, 1)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "images/a.tif", deep, photometric="minisblack", rowsperstrip=9)
    Image.fromarray(np.ones((H, W), np.uint8)).save(tmp_path / "masks/a.png")
    out = tmp_path / "out"
    assert tile(tmp_path, "--out", out, "--size", 64, "--overlap", 8) == 0
    low = np.percentile(deep, 0.5, method="higher")
    high = np.percentile(deep, 99.5, method="lower")
    expected = np.clip((deep - float(low)) / (high - float(low)), 0, 1) * 255
    places = {int(r["image_id"]): (int(r["x"]), int(r["y"])) for r in table(out / "tiles.tsv")}
    for number, (pixels, _) in read_tiles(out).items():
        x, y = places[number]
        assert np.abs(pixels[..., 0] - expected[y : y + 64, x : x + 64]).max() <= 4


@pytest.mark.parametrize("options", [{"tile": (32, 48)}, {"rowsperstrip": 11}, {"rowsperstrip": H}])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_rows_of_a_tiff_are_those_of_the_whole(
    tmp_path: Path, options: dict[str, Any], compression: str | None
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", scene_photo(), photometric="rgb", compression=compression, **options
    )
    with opened(tmp_path / "a.tif") as found:
        for top, bottom in ((0, H), (0, 1), (10, 33), (63, 64), (H - 5, H)):
            rows = found.raster.rows(top, bottom)
            np.testing.assert_array_equal(rows, scene_photo()[top:bottom])


def test_coco_polygons_in_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(scene_photo()).save(tmp_path / "a.png")
    polygon = [20.5, 10.0, 200.0, 30.0, 120.0, 140.0]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": H, "width": W}],
        "annotations": [{"id": 55, "image_id": 7, "segmentation": [polygon]}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    command = ["coco", "--images", tmp_path, "--annotations", tmp_path / "a.json", "--out", out,
               "--size", 100, "--overlap", 20, "--min-visible", 0, "--workers", 0]  # fmt: skip
    assert main([*map(str, command)]) == 0
    whole = coco_mask.decode(coco_mask.frPyObjects([polygon], H, W)[0]).astype(bool)
    places = {int(r["image_id"]): (int(r["x"]), int(r["y"])) for r in table(out / "tiles.tsv")}
    again = np.zeros((H, W), bool)
    for number, (_, masks) in read_tiles(out).items():
        x, y = places[number]
        mask = coco_mask.decode(masks[0]["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, whole[y : y + 100, x : x + 100])
        again[y : y + 100, x : x + 100] |= mask
    np.testing.assert_array_equal(again, whole)
    assert {row["source_id"] for row in table(out / "objects.tsv")} == {"55"}
    assert "1 object whole in no tile" in capsys.readouterr().out


def test_photos_without_masks_are_cut_for_generate(folder: Path) -> None:
    out = folder / "out"
    command = ["photos", "--images", folder / "images", "--out", out, "--size", 64, "--workers", 0]
    assert main([*map(str, command)]) == 0
    rows = table(out / "tiles.tsv")
    grid = window_rows(height=H, width=W, size=64, overlap=8)
    assert len(rows) == 2 * sum(len(row) for row in grid) + 1
    places = list_photos([str(out)])
    assert len(places) == len(rows)
    assert places[0].read().pixels.shape == (64, 64, 3)
