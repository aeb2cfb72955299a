"""The converters, against pycocotools and against files made with scipy and Pillow."""

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
from scipy.io import loadmat, savemat

from data_tools.convert import main

SHARED = REAL_DATA
H, W = 24, 32

needs_real_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the real data sets are not beside the checkout ({SHARED})"
)


def write_image(path: Path, *, size: tuple[int, int] = (H, W), seed: int = 0) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def write_png(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def rectangle(top: int, left: int, bottom: int, right: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def encode(mask: npt.NDArray[np.bool_]) -> Any:
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def plain_runs(mask: npt.NDArray[np.bool_]) -> list[int]:
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(int), prepend=0))
    return np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()


def run(*args: object) -> int:
    return main([*map(str, args), "--workers", "0"])


def read_shards(out: Path) -> dict[int, tuple[bytes, dict[str, Any]]]:
    """image_id -> (JPEG, JSON) of all shards."""
    result = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert names[::2] == [name.replace(".json", ".jpg") for name in names[1::2]]
            for jpg, js in zip(names[::2], names[1::2], strict=True):
                image, text = tar.extractfile(jpg), tar.extractfile(js)
                assert image is not None and text is not None
                record = json.loads(text.read())
                assert record["image"]["file_name"] == jpg
                result[record["image"]["image_id"]] = (image.read(), record)
    return result


def masks_of(record: dict[str, Any]) -> list[npt.NDArray[np.bool_]]:
    decoded = [coco_mask.decode(a["segmentation"]) for a in record["annotations"]]
    return [mask.astype(bool) for mask in decoded]


def as_set(masks: list[npt.NDArray[np.bool_]]) -> set[bytes]:
    return {mask.tobytes() for mask in masks}


# --- COCO -------------------------------------------------------------------------------------


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO data set with every kind of segmentation and every kind of fault."""
    images = tmp_path / "images"
    for n, name in enumerate(["a.jpg", "sub/b.jpg", "empty.jpg"]):
        write_image(images / name, seed=n)
    (images / "broken.jpg").write_bytes(b"no picture")
    size = {"height": H, "width": W}
    donut = rectangle(2, 2, 20, 20) & ~rectangle(6, 6, 12, 12)
    polygons = [[3.2, 4.1, 20.7, 5.0, 15.5, 19.9], [22.0, 2.0, 30.0, 2.0, 30.0, 8.5, 22.0, 8.5]]
    plain = {"size": [H, W], "counts": plain_runs(donut)}
    wrong_size = encode(np.ones((5, 5), dtype=bool))
    too_long = {"size": [H, W], "counts": [0, H * W + 50]}
    everything = {
        "images": [
            {"id": 7, "file_name": "a.jpg", **size},
            {"id": 8, "file_name": "sub/b.jpg", **size},
            {"id": 9, "file_name": "empty.jpg", **size},
            {"id": 10, "file_name": "gone.jpg", **size},
            {"id": 11, "file_name": "a.jpg", **size},
            {"id": 12, "file_name": "broken.jpg", **size},
        ],
        "annotations": [
            {"id": 501, "image_id": 7, "segmentation": polygons, "iscrowd": 0},
            {"id": 502, "image_id": 7, "segmentation": encode(donut)},
            {"id": 503, "image_id": 8, "segmentation": plain},
            {"id": 504, "image_id": 8, "segmentation": {**encode(donut)}, "iscrowd": 1},
            {"id": 505, "image_id": 8, "segmentation": wrong_size},
            {"id": 506, "image_id": 8, "segmentation": too_long},
            {"id": 507, "image_id": 8, "segmentation": [[1, 2, 3, 4]]},
            {"id": 508, "image_id": 8, "segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]},
            {"id": 509, "image_id": 8},
            {"id": 510, "image_id": 8, "segmentation": encode(rectangle(0, 0, 0, 0))},
            {"id": 511, "image_id": 99, "segmentation": polygons},
            {"id": 512, "image_id": 10, "segmentation": polygons},
            {"id": 513, "image_id": 12, "segmentation": polygons},
        ],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(everything))
    return tmp_path


def coco_args(folder: Path, *more: object) -> tuple[object, ...]:
    annotations = folder / "instances.json"
    return ("coco", "--images", folder / "images", "--annotations", annotations, *more)


def test_coco_masks_are_pycocotools(coco: Path) -> None:
    assert run(*coco_args(coco, "--out", coco / "out")) == 0
    found = read_shards(coco / "out")
    assert sorted(found) == [1, 2]
    assert [a["id"] for a in found[1][1]["annotations"]] == [501, 502]
    assert [a["id"] for a in found[2][1]["annotations"]] == [503]
    api = COCO(str(coco / "instances.json"))
    for _, record in found.values():
        for annotation, mask in zip(record["annotations"], masks_of(record), strict=True):
            expected = api.annToMask(api.anns[annotation["id"]]).astype(bool)
            np.testing.assert_array_equal(mask, expected)
            ys, xs = np.nonzero(expected)
            x, y = annotation["point_coords"][0]
            assert expected[int(y), int(x)]
            assert annotation["area"] == expected.sum()
            assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs), np.ptp(ys)]
            assert annotation["crop_box"] == [0.0, 0.0, W, H]
    assert found[1][0] == (coco / "images/a.jpg").read_bytes()


def test_fields_are_those_of_sa1b(coco: Path) -> None:
    run(*coco_args(coco, "--out", coco / "out"))
    _, record = read_shards(coco / "out")[1]
    assert record.keys() == {"image", "annotations"}
    assert record["image"] == {"image_id": 1, "width": W, "height": H, "file_name": "sa_1.jpg"}
    assert record["annotations"][0].keys() == {
        "id", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "crop_box",
        "point_coords",
    }  # fmt: skip


def test_coco_counts_and_names_what_it_leaves_out(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*coco_args(coco, "--out", coco / "out")) == 0
    out = capsys.readouterr().out
    assert "2 images, 3 masks; skipped 3 images and 10 masks" in out
    rows = (coco / "out/skipped.tsv").read_text().splitlines()[1:]
    found = {(kind, reason, name.split(" (")[0]) for kind, reason, name in (r.split("\t") for r in rows)}  # fmt: skip  # noqa: E501
    for row in [
        ("image", "no mask", "empty.jpg"),
        ("image", "missing image", "gone.jpg"),
        ("image", "unreadable image", "broken.jpg"),
        ("mask", "crowd", "instances.json: annotation 504"),
        ("mask", "size differs from the image's", "sub/b.jpg: annotation 505"),
        ("mask", "empty", "sub/b.jpg: annotation 510"),
        ("mask", "unknown image_id", "instances.json: annotation 511: image 99"),
        ("mask", "no segmentation", "instances.json: annotation 509"),
        ("mask", "its image was left out", "instances.json: annotation 512"),
        ("mask", "its image was left out", "broken.jpg: annotation 513"),
    ]:
        assert row in found
    bad = sorted(name for _, reason, name in found if reason == "bad segmentation")
    assert [name.split(":")[1] for name in bad] == [f" annotation {n}" for n in range(506, 509)]
    sources = (coco / "out/sources.tsv").read_text()
    assert sources == "image_id\tfile_name\n1\ta.jpg\n2\tsub/b.jpg\n"


def test_a_photo_turned_by_exif_lies_as_its_masks_do(tmp_path: Path) -> None:
    pixels = np.zeros((H, W, 3), dtype=np.uint8)
    pixels[:, W // 2 :] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to view: the right half comes to the bottom
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/a.jpg", exif=exif)
    for name, upright in {"upright": True, "stored": False}.items():
        size = [W, H] if upright else [H, W]
        masks = {"a": {"size": size, "counts": [[0, H * W]]}}
        (tmp_path / "masks.json").write_text(json.dumps(masks))
        args = ("--images", tmp_path / "images", "--masks", tmp_path / "masks.json")
        assert run("rle", *args, "--out", tmp_path / name) == 0
        jpeg, record = read_shards(tmp_path / name)[1]
        image = Image.open(io.BytesIO(jpeg))
        assert image.getexif().get(0x0112) is None
        assert [image.height, image.width] == size
        assert [record["image"]["height"], record["image"]["width"]] == size
        grey = np.asarray(image.convert("L"))
        bright = grey[W // 2 + 1 :] if upright else grey[:, W // 2 + 1 :]
        assert bright.min() > 200


# --- BSDS -------------------------------------------------------------------------------------


def save_bsds(path: Path, maps: list[npt.NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    people = np.empty((1, len(maps)), dtype=object)
    for i, labels in enumerate(maps):
        person = np.empty((1, 1), dtype=[("Segmentation", object), ("Boundaries", object)])
        person[0, 0] = (labels.astype(np.uint16), np.zeros((H, W), dtype=np.uint8))
        people[0, i] = person
    savemat(path, {"groundTruth": people})


def bsds_args(folder: Path, *more: object) -> tuple[object, ...]:
    return ("bsds", "--images", folder / "images", "--ground-truth", folder / "gt", *more)


def test_bsds_keeps_what_people_cut_differently(tmp_path: Path) -> None:
    write_image(tmp_path / "images/1.jpg")
    first = np.ones((H, W), dtype=int)
    first[:, 16:] = 2
    almost = first.copy()
    almost[0, 15] = 2  # IoU 383/384 and 384/385 with the first person's two segments
    nested = first.copy()
    nested[5:10, 20:30] = 3
    nested[15:20, 20:30] = 3  # one segment in two pieces
    save_bsds(tmp_path / "gt/1.mat", [first, almost, nested])
    assert run(*bsds_args(tmp_path, "--out", tmp_path / "out")) == 0
    found = masks_of(read_shards(tmp_path / "out")[1][1])
    expected = [first == 1, first == 2, nested == 2, nested == 3]
    assert len(found) == 4
    assert as_set(found) == as_set(expected)
    assert "person 2, segment 1" in (tmp_path / "out/skipped.tsv").read_text()
    assert run(*bsds_args(tmp_path, "--out", tmp_path / "all", "--dedupe", "1")) == 0
    # Exactly equal masks have an IoU of 1, which is not above 1.
    assert len(read_shards(tmp_path / "all")[1][1]["annotations"]) == 7


def test_bsds_damaged_and_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]:
        write_image(tmp_path / "images" / name)
    save_bsds(tmp_path / "gt/1.mat", [np.ones((H, W))])
    whole = (tmp_path / "gt/1.mat").read_bytes()
    (tmp_path / "gt/2.mat").write_bytes(whole[: len(whole) // 2])
    savemat(tmp_path / "gt/3.mat", {"something": np.ones(3)})
    save_bsds(tmp_path / "gt/5.mat", [np.ones((W, H))])
    assert run(*bsds_args(tmp_path, "--out", tmp_path / "out")) == 0
    out = capsys.readouterr().out
    assert "skipped 2 images, unreadable .mat: 2.jpg" in out
    assert "no .mat file: 4.jpg" in out
    assert "size differs from the image's: 5.mat: person 1, segment 1" in out
    assert sorted(read_shards(tmp_path / "out")) == [1]


# --- mask PNGs --------------------------------------------------------------------------------


def mask_args(folder: Path, *more: object) -> tuple[object, ...]:
    return ("masks", "--images", folder / "images", "--masks", folder / "masks", *more)


def paletted(labels: npt.NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(labels).convert("P")
    image.putpalette([0, 0, 0, 90, 90, 90, 90, 90, 90])  # labels 1 and 2 look the same
    return image


@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "palette", "RGB", "RGBA"])
def test_label_maps_of_every_depth(tmp_path: Path, kind: str) -> None:
    labels = np.zeros((H, W), dtype=np.uint8)
    labels[2:9, 3:12] = 1
    labels[12:20, 3:30] = 2
    write_image(tmp_path / "images/a.b.jpg")
    path = tmp_path / "masks/a.b.png"
    path.parent.mkdir()
    colours = np.array([[0, 0, 0, 255], [9, 0, 0, 255], [0, 0, 9, 255], [9, 9, 9, 0]], np.uint8)
    picture = {
        "8 bit": lambda: Image.fromarray(labels),
        "16 bit": lambda: Image.fromarray(labels.astype(np.uint16) * 30_000),
        "palette": lambda: paletted(labels),
        "RGB": lambda: Image.fromarray(colours[labels][..., :3]),
        "RGBA": lambda: Image.fromarray(colours[np.where(labels == 0, 3, labels)]),
    }[kind]()
    picture.save(path)
    assert run(*mask_args(tmp_path, "--out", tmp_path / "out")) == 0
    found = masks_of(read_shards(tmp_path / "out")[1][1])
    assert len(found) == 2
    assert as_set(found) == as_set([labels == 1, labels == 2])


def test_ignored_labels(tmp_path: Path) -> None:
    labels = np.full((H, W), 255, dtype=np.uint8)
    labels[:10] = 0
    labels[:, :5] = 4
    write_image(tmp_path / "images/a.jpg")
    write_png(tmp_path / "masks/a.png", labels)
    args = mask_args(tmp_path, "--ignore", "0", "0xFF", "--out", tmp_path / "out")
    assert run(*args) == 0
    assert as_set(masks_of(read_shards(tmp_path / "out")[1][1])) == as_set([labels == 4])


def test_binary_masks_and_their_foreground(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = rectangle(3, 4, 15, 20)
    hidden = rectangle(15, 4, 20, 20)
    write_image(tmp_path / "images/x.png")
    folder = tmp_path / "masks/x"
    write_png(folder / "0.png", shape.astype(np.uint8))
    write_png(folder / "1.png", shape.astype(np.uint8) * 255)
    write_png(folder / "2.png", shape * np.uint8(255) + hidden * np.uint8(128))
    write_png(folder / "3.png", np.repeat(shape[..., None], 3, axis=2).astype(np.uint8) * 200)
    write_png(folder / "4.png", np.zeros((H, W), dtype=np.uint8))
    write_png(folder / "5.png", np.ones((H, W + 1), dtype=np.uint8))
    (folder / "6.png").write_bytes(b"\x89PNG and no more")
    assert run(*mask_args(tmp_path, "--out", tmp_path / "out")) == 0
    jpeg, record = read_shards(tmp_path / "out")[1]
    assert Image.open(io.BytesIO(jpeg)).format == "JPEG"
    assert [a["id"] for a in record["annotations"]] == [1, 2, 3, 4]
    assert as_set(masks_of(record)) == as_set([shape])
    out = capsys.readouterr().out
    assert "1 mask, empty: x/4.png" in out
    assert "size differs from the image's: x/5.png (33 x 24, image 32 x 24)" in out
    assert "1 mask, unreadable mask file:" in out


def test_layouts_side_by_side(tmp_path: Path) -> None:
    shape = rectangle(3, 4, 15, 20)
    both = tmp_path / "both"
    write_image(both / "a.jpg")
    write_png(both / "a_mask.png", shape.astype(np.uint8) * 9)
    write_png(both / "a_mask/0.png", ~shape)
    kinds = {
        "auto": (~shape, "mask file beside those taken for its photo\ta_mask.png"),
        "labels": (shape, "mask file without a photo\ta_mask/0.png"),
    }
    for layout, (expected, left) in kinds.items():
        out = tmp_path / layout
        args = ("--images", both, "--masks", both, "--mask-suffix", "_mask", "--layout", layout)
        assert run("masks", *args, "--out", out) == 0
        found = read_shards(out)
        assert as_set(masks_of(found[1][1])) == as_set([expected])
        rows = (out / "skipped.tsv").read_text().splitlines()[1:]
        assert rows == [f"file\t{left}"]


def test_two_images_of_one_stem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "images/a.jpg")
    write_image(tmp_path / "images/a.png")
    write_png(tmp_path / "masks/a.png", np.ones((H, W), dtype=np.uint8))
    assert run(*mask_args(tmp_path, "--out", tmp_path / "out")) == 0
    assert "skipped 1 image, duplicate name: a.png" in capsys.readouterr().out


# --- RLE JSON ---------------------------------------------------------------------------------


def test_rle_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = rectangle(0, 0, 7, 9), rectangle(10, 10, 24, 32)
    write_image(tmp_path / "images/a.png")
    write_image(tmp_path / "images/b.png")
    write_image(tmp_path / "images/c.png")
    counts = [encode(first)["counts"], plain_runs(second), "cut off~", encode(first)["counts"][:-1]]
    masks = {
        "a": {"size": [H, W], "counts": counts},
        "b.png": {"size": [H, W], "counts": [encode(second)["counts"]]},
        "d": {"size": [H, W], "counts": []},
    }
    (tmp_path / "m.json").write_text(json.dumps(masks))
    args = ("rle", "--images", tmp_path / "images", "--masks", tmp_path / "m.json")
    assert run(*args, "--out", tmp_path / "out") == 0
    found = read_shards(tmp_path / "out")
    assert as_set(masks_of(found[1][1])) == as_set([first, second])
    assert as_set(masks_of(found[2][1])) == as_set([second])
    out = capsys.readouterr().out
    assert "skipped 2 masks, bad RLE: a.png: mask 2" in out
    assert "missing image: d" in out
    assert "not named in the JSON: c.png" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "m.json: cut off"),
        ("[]", "RLE, ...]}}: this is an empty list"),
        ('{"a": {"size": [1, 1]}}', "missing the field `counts`"),
        ('{"a": 1, "a": 2}', "'a' stands in it twice"),
    ],
)
def test_rle_json_of_another_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    write_image(tmp_path / "images/a.png")
    (tmp_path / "m.json").write_text(text)
    args = ("rle", "--images", tmp_path / "images", "--masks", tmp_path / "m.json")
    assert run(*args, "--out", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- real data --------------------------------------------------------------------------------


@needs_real_data
def test_coco128(tmp_path: Path) -> None:
    folder = SHARED / "coco128"
    args = ("--images", folder / "images", "--annotations", folder / "instances.json")
    assert run("coco", *args, "--out", tmp_path / "out") == 0
    found = read_shards(tmp_path / "out")
    assert len(found) == 126
    api = COCO(str(folder / "instances.json"))
    ids = [a["id"] for _, record in found.values() for a in record["annotations"]]
    assert set(ids) == {k for k, annotation in api.anns.items() if not annotation["iscrowd"]}
    assert len(ids) == 929
    for _, record in list(found.values())[::6]:
        for annotation, mask in zip(record["annotations"], masks_of(record), strict=True):
            np.testing.assert_array_equal(mask, api.annToMask(api.anns[annotation["id"]]))


@needs_real_data
def test_bsds500_sees_every_segment(tmp_path: Path) -> None:
    folder = SHARED / "bsds500"
    args = ("--images", folder / "images/val", "--ground-truth", folder / "groundTruth/val")
    out = tmp_path / "out"
    assert run("bsds", *args, "--limit", 5, "--dedupe", 1, "--out", out) == 0
    found = read_shards(out)
    assert sorted(found) == [1, 2, 3, 4, 5]
    for row in (out / "sources.tsv").read_text().splitlines()[1:]:
        number, name = row.split("\t")
        mat = folder / "groundTruth/val" / name.replace(".jpg", ".mat")
        expected: set[bytes] = set()
        for person in loadmat(mat)["groundTruth"][0]:
            labels = person["Segmentation"][0][0]
            expected |= as_set([labels == value for value in np.unique(labels)])
        jpeg, record = found[int(number)]
        assert jpeg == (folder / "images/val" / name).read_bytes()
        assert as_set(masks_of(record)) == expected
