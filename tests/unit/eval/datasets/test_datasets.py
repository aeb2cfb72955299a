"""Data sets of every reader, what is taken of them, and photos as they should not be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from places import ROOT
from pycocotools import mask as coco_mask

from sam_train.data.formats.base import formats
from sam_train.data.shards.writer import ShardSample, annotation, write_shards
from sam_train.errors import UserError
from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets import EvalSample, open_datasets, read_specs
from sam_train.eval.datasets.images import FileImage
from sam_train.runtime.jobs import SkipItem

H, W = 24, 36
Pixels = npt.NDArray[np.uint8]


def noise(seed: int = 0, *, height: int = H, width: int = W) -> Pixels:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def labels(*, masks: int = 2) -> Pixels:
    """A label map of vertical stripes with a background border."""
    values = np.zeros((H, W), dtype=np.uint8)
    for k in range(masks):
        values[2:-2, 3 + 5 * k : 6 + 5 * k] = k + 1
    return values


def pictures(root: Path, count: int, *, masks: int = 2) -> Path:
    """A folder for the reader `masks`."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for k in range(count):
        Image.fromarray(noise(k)).save(root / f"images/p{k:02d}.png")
        Image.fromarray(labels(masks=masks)).save(root / f"masks/p{k:02d}.png")
    return root


def only(datasets: Any, **settings: Any) -> EvalSample:
    """The one image of the one data set."""
    (found,) = open_datasets(EvalConfig(datasets=datasets, **settings))
    (image,) = found.images
    return image.load(min_area=settings.get("min_area", 1))


def decoded(sample: EvalSample) -> list[Pixels]:
    return [coco_mask.decode(mask) for mask in sample.masks]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two photos; one annotation without a category, a crowd, an empty and a broken one."""
    root = tmp_path / "coco"
    (root / "images").mkdir(parents=True)
    for k in range(2):
        Image.fromarray(noise(k)).save(root / f"images/{k}.jpg")
    square = [[2, 2, 10, 2, 10, 9, 2, 9]]
    whole = coco_mask.encode(np.asfortranarray(np.zeros((H, W), dtype=np.uint8)))
    empty = {"size": [H, W], "counts": whole["counts"].decode()}
    annotations = [
        {"id": 1, "image_id": 0, "segmentation": square, "category_id": 3},
        {"id": 2, "image_id": 0, "segmentation": square},
        {"id": 3, "image_id": 0, "segmentation": empty},
        {"id": 4, "image_id": 0, "segmentation": [[1, 2]]},
        {"id": 5, "image_id": 0, "segmentation": empty, "iscrowd": 1},
        {"id": 6, "image_id": 9, "segmentation": square},
    ]
    images = [{"id": k, "file_name": f"{k}.jpg", "height": H, "width": W} for k in range(2)]
    content = {"images": images, "annotations": annotations}
    (root / "instances_val2017.json").write_text(json.dumps(content))
    return root


def test_coco_without_categories_with_empty_masks_and_photos_without_any(coco: Path) -> None:
    (found,) = open_datasets(EvalConfig(datasets=f"coco:{coco}"))
    assert found.skipped == {"mask: crowd": 1, "mask: unknown image_id": 1}
    first, second = found.images
    sample = first.load()
    assert [int(mask.sum()) for mask in decoded(sample)] == sample.areas == [56, 56]
    assert sample.left_out == {"bad segmentation": 1, "empty": 1}
    assert sample.key == "coco/0.jpg"
    with pytest.raises(SkipItem, match="no mask"):
        second.load()


def test_min_area(coco: Path) -> None:
    (found,) = open_datasets(EvalConfig(datasets=f"coco:{coco}"))
    with pytest.raises(SkipItem, match=r"2 smaller than eval\.min_area, 1 empty"):
        found.images[0].load(min_area=57)


@pytest.mark.parametrize("place", ["val2017", "images/val2017"])
def test_where_cocos_photos_may_lie(coco: Path, place: str) -> None:
    photos = (coco / "images").rename(coco / "photos")
    (coco / place).parent.mkdir(exist_ok=True)
    photos.rename(coco / place)
    (found,) = open_datasets(EvalConfig(datasets=f"coco:{coco}"))
    assert len(found.images[0].load().masks) == 2


@pytest.mark.parametrize("reader", formats())
def test_a_folder_is_looked_for_before_the_one_it_lies_in(reader: str) -> None:
    for places in (formats()[reader].image_places, formats()[reader].annotation_places):
        folders = [Path(place) for place in places if "*" not in place]
        for k, place in enumerate(folders):
            assert not set(folders[:k]) & set(place.parents), place


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P", "1"])
def test_photos_that_are_no_rgb(tmp_path: Path, mode: str) -> None:
    root = pictures(tmp_path, 1)
    path = root / "images/p00.png"
    grey = np.asarray(Image.fromarray(noise()).convert("L"))
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 100 + 500).save(path)
    elif mode == "RGBA":
        alpha = np.full((H, W), 255, dtype=np.uint8)
        alpha[:, 20:] = 0
        Image.fromarray(np.dstack([noise(), alpha])).save(path)
    else:
        Image.fromarray(noise()).convert(mode).save(path)
    sample = only(f"masks:{root}")
    assert (sample.image.shape, sample.image.dtype) == ((H, W, 3), np.uint8)
    assert len(sample.masks) == 2
    if mode == "L":
        assert (sample.image == grey[..., None]).all()
    if mode == "RGBA":
        assert (sample.image[:, :20] == noise()[:, :20]).all()
        assert (sample.image[:, 20:] == 255).all()
    if mode == "I;16":
        low = np.percentile(grey, 0.5, method="higher")
        high = np.percentile(grey, 99.5, method="lower")
        stretched = np.clip((grey.astype(float) - low) * 255.0 / (high - low), 0, 255)
        assert np.abs(sample.image[..., 0] - stretched).max() <= 1


@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_a_rotated_photo_lies_as_its_masks_do(tmp_path: Path, drawn_on: str) -> None:
    root = pictures(tmp_path, 1)
    upright = noise()
    # Orientation 6: stored a quarter turn to the left, to be shown turned right.
    stored = np.ascontiguousarray(np.rot90(upright)) if drawn_on == "upright" else upright
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(root / "images/p00.png", exif=exif)
    sample = only(f"masks:{root}")
    assert (sample.image == upright).all()
    assert sample.size == tuple(sample.masks[0]["size"])


def test_masks_of_another_size_are_left_out(tmp_path: Path) -> None:
    root = pictures(tmp_path, 1)
    Image.fromarray(labels()[:-2]).save(root / "masks/p00.png")
    with pytest.raises(SkipItem, match="2 size differs from the image's"):
        only(f"masks:{root}")


@pytest.mark.parametrize("what", ["images", "masks"])
def test_damaged_files(tmp_path: Path, what: str) -> None:
    root = pictures(tmp_path, 1)
    path = root / what / "p00.png"
    path.write_bytes(path.read_bytes()[:70])
    with pytest.raises(SkipItem, match="unreadable"):
        only(f"masks:{root}")


def test_shards_give_photo_and_masks_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(noise()).save(path)
    masks = np.stack([labels() == 1, labels() == 2, np.zeros((H, W), dtype=bool)])
    record = [annotation(mask, id=k) for k, mask in enumerate(masks[:2])]
    record.append({**record[0], "segmentation": {"size": [H, W], "counts": "0"}})
    sample = ShardSample(image_id=7, jpeg=path.read_bytes(), width=W, height=H, annotations=record)
    write_shards([sample], tmp_path / "shards")
    (found,) = open_datasets(EvalConfig(datasets=f"shards:{tmp_path / 'shards'}"))
    assert [image.count() for image in found.images] == [3]
    loaded = found.images[0].load()
    assert (loaded.image == np.asarray(Image.open(path))).all()
    assert all((a == b).all() for a, b in zip(decoded(loaded), masks[:2], strict=True))
    assert loaded.left_out == {"RLE covers less than the image": 1}
    assert loaded.key == "shards/sa_000000.tar/sa_7"


def test_about_so_many_masks_whole_images_the_same_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path / "set", 20)

    def names(cache: Path | None = None, **settings: Any) -> list[str]:
        cfg = EvalConfig(datasets=f"masks:{root}", **settings)
        return [image.name for image in open_datasets(cfg, cache=cache)[0].images]

    some = names(masks=9)
    assert len(some) == 5  # two masks each: the fifth image reaches nine
    assert some == sorted(some) != [f"p{k:02d}.png" for k in range(5)]
    assert set(some) < set(names(masks=30)) < set(names())
    assert set(names(images=3)) < set(some)
    assert len(names(masks=None)) == 20
    # Counts on disk answer without reading the files, as long as these are the same.
    cache = tmp_path / "cache"
    assert names(masks=9, cache=cache) == some
    with monkeypatch.context() as patch:
        patch.setattr(FileImage, "count", lambda image: pytest.fail(image.name))
        assert names(masks=9, cache=cache) == some
    for path in (root / "masks").iterdir():
        Image.fromarray(labels(masks=5)).save(path)
    assert len(names(masks=9, cache=cache)) == 2


def test_the_same_names_elsewhere_are_other_items(tmp_path: Path) -> None:
    keys = []
    for name in "ab":
        root = pictures(tmp_path / name, 1)
        (found,) = open_datasets(EvalConfig(datasets=f"set=masks:{root}"))
        keys.append(found.images[0].key)
    assert keys[0] != keys[1]
    assert {key.partition("#")[0] for key in keys} == {"set/p00.png"}


def keys(datasets: Any) -> dict[str, str]:
    (found,) = open_datasets(EvalConfig(datasets=datasets))
    return {image.name: image.key for image in found.images}


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    assert before.keys() == after.keys()
    return [name for name, key in before.items() if after[name] != key]


def later(path: Path) -> None:
    """As if it had been written a second after it was: what an edit looks like, however fast the
    test and coarse the file system's clock."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("what", ["images", "masks"])
def test_an_image_whose_files_changed_is_another_item(tmp_path: Path, what: str) -> None:
    root = pictures(tmp_path / "set", 3)
    before = keys(f"masks:{root}")
    assert keys(f"masks:{root}") == before
    later(root / what / "p01.png")
    assert changed(before, keys(f"masks:{root}")) == ["p01.png"]
    (root / what / "p02.png").write_bytes(b"another size")
    assert changed(before, keys(f"masks:{root}")) == ["p01.png", "p02.png"]


def test_mending_a_json_makes_other_items_of_the_mended_images(coco: Path) -> None:
    before = keys(f"coco:{coco}")
    file = coco / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"].append(content["annotations"][0] | {"id": 7})
    file.write_text(json.dumps(content))
    assert changed(before, keys(f"coco:{coco}")) == ["0.jpg"]
    (coco / "images/1.jpg").unlink()
    assert changed(before, keys(f"coco:{coco}")) == ["0.jpg", "1.jpg"]


def test_a_shard_that_changed_has_other_items(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(noise()).save(path)
    record = [annotation(labels() == 1, id=0)]
    sample = ShardSample(image_id=7, jpeg=path.read_bytes(), width=W, height=H, annotations=record)
    write_shards([sample], tmp_path / "shards")
    before = keys(f"shards:{tmp_path / 'shards'}")
    assert keys(f"shards:{tmp_path / 'shards'}") == before
    later(tmp_path / "shards/sa_000000.tar")
    assert changed(before, keys(f"shards:{tmp_path / 'shards'}")) == list(before)


def test_yaml_names_what_lies_elsewhere(tmp_path: Path) -> None:
    root = pictures(tmp_path / "set", 1)
    (root / "masks").rename(tmp_path / "truth")
    Image.fromarray(labels()).save(tmp_path / "truth/p00_seg.png")
    file = tmp_path / "suite.yaml"
    file.write_text(
        f"- {{name: mine, reader: masks, path: {root}, annotations: {tmp_path}/truth, "
        "suffix: _seg, ignore: [0, 2], masks: 5}\n"
        f"- again=masks:{root.parent}/again\n"
    )
    pictures(tmp_path / "again", 2)
    found = open_datasets(EvalConfig(datasets=[str(file)]))
    assert [(each.name, len(each.images)) for each in found] == [("mine", 1), ("again", 2)]
    assert len(found[0].images[0].load().masks) == 1


@pytest.mark.parametrize(
    ("written", "field", "expected"),
    [
        ("ignore: 0", "ignore", None),
        ("ignore: 255", "ignore", (255,)),
        ("ignore: '255'", "ignore", (255,)),
        ("ignore: []", "ignore", ()),
        ("ignore:", "ignore", None),
        ("ignore: [0x10, 0]", "ignore", (16, 0)),
        ("regions: 8", "regions", 8),
        ("name: 2018", "name", "2018"),
        ("path: 7", "path", "7"),
        ("suffix: 1.5", "suffix", "1.5"),
        ("name:", "name", "masks"),
        ("masks: '50'", "masks", 50),
        ("masks: null", "masks", None),
    ],
)
def test_yaml_values_are_what_their_writer_meant(
    tmp_path: Path, written: str, field: str, expected: Any
) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(f"- reader: masks\n  {written}\n")
    (spec,) = read_specs(str(file))
    assert getattr(spec if hasattr(spec, field) else spec.format, field) == expected


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ("", "eval.datasets is not set"),
        ([], "eval.datasets is not set"),
        ("coco", "coco is not READER:PATH"),
        ("cocoo:/data", r"no kind cocoo \(did you mean coco\?\)"),
        ([{"reader": "coco", "layout": "labels"}], "coco has no layout"),
        ([{"reader": "coco", "crowds": "yes"}], "crowds=yes must be true or false"),
        (["masks:a", "masks:b"], "two are called masks"),
        ([{"name": "x"}], "x needs a reader"),
        ([{"reader": "coco", "jsn": "y"}], "has no jsn"),
        ([{"reader": "masks", "layout": "y"}], "layout=y must be auto, labels, binary"),
        ([{"reader": "masks", "masks": 0}], "masks=0"),
        ([{"reader": "masks", "masks": "few"}], "masks: masks=few must be a whole number"),
        ([{"reader": "masks", "ignore": ["x"]}], "masks: ignore=x must be a whole number"),
        ([{"reader": "masks", "name": "A", "ignore": 0.5}], "datasets: A: ignore=0.5 must be"),
        ([{"reader": "masks", "name": True}], "name=True must be a text: put it in quotes"),
        ([{"reader": ["masks"]}], "reader=.* must be a text"),
        ("a/b=masks:x", "cannot be called 'a/b'"),
        ("absent.yaml", "absent.yaml cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_line(datasets: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_specs(datasets)


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"coco has no annotations below .*instances"):
        open_datasets(EvalConfig(datasets=f"coco:{tmp_path}"))
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="masks has no image"):
        open_datasets(EvalConfig(datasets=f"masks:{tmp_path}"))


def test_the_page_has_the_readers_and_the_papers_sets() -> None:
    page = (ROOT / "docs/datasets.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    sets = [[cell.strip() for cell in row] for row in rows if len(row) == 7][1:]
    assert len(sets) == 23
    for row in sets:
        # Code, every second piece between backticks: one of them is the reader.
        assert set(row[5].split("`")[1::2]) & set(formats()), row
    told = {row[0].strip().strip("`") for row in rows if len(row) == 2}
    assert told >= {*formats(), "shards"}
