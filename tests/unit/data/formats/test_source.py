"""Training on a data set of any format: the same samples as training on its conversion."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools import convert, stage_in
from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.feed.loader import make_train_loader
from sam_train.data.sample.decode import BadSample
from sam_train.data.shards.groups_file import groups_of
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.data.skip_report import describe
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.types import Batch

PHOTOS = 9


def noise(height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """JPEGs in COCO's form: polygons, runs, a mask of no pixel, one of another size, a crowd."""
    folder = tmp_path / "zoo"
    (folder / "images").mkdir(parents=True)
    photos: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    for k in range(PHOTOS):
        height, width = 50 + 3 * k, 70
        name = f"p{k}.jpg"
        noise(height, width, k).save(folder / "images" / name)
        photos.append({"id": k, "file_name": name, "height": height, "width": width})
        empty = [height * width]
        inside = np.zeros((height, width), dtype=np.uint8, order="F")
        inside[10 : 30 + k, 5 : 25 + k] = 1
        runs = coco_mask.encode(inside)
        runs["counts"] = runs["counts"].decode()
        forms: list[Any] = [{"size": [height, width], "counts": empty}, runs]
        forms += [[[x, 4, x + 30, 8, x + 20, 40]] for x in range(0, 30, 6)]
        forms += [{"size": [9, 9], "counts": [40, 41]}]
        masks += [
            {"id": 100 * k + n, "image_id": k, "category_id": 1, "segmentation": form}
            for n, form in enumerate(forms)
        ]
        masks.append({**masks[-2], "id": 100 * k + 99, "iscrowd": 1})
    content = {"images": photos, "annotations": masks, "categories": [{"id": 1, "name": "x"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def converted(folder: Path, out: Path) -> Path:
    arguments = ["--images", str(folder / "images"), "--annotations"]
    arguments += [str(folder / "instances.json"), "--out", str(out), "--workers", "0"]
    assert convert.main(["coco", *arguments]) == 0
    return out


def opened(patterns: Any, **settings: Any) -> Shards:
    return open_shards(patterns, option="data.train", formats=True, **settings)


def batches(shards: Shards, number: int, **settings: Any) -> list[Batch]:
    cfg = DataConfig(**{"batch_size": 4, "masks_per_image": 3, "workers": 0, **settings})
    skips = Skips(workers=cfg.workers, max_fraction=1.0)
    loader = make_train_loader(shards, cfg, image_size=64, grid_size=16, seed=3, skips=skips)
    stream: Iterator[Batch] = iter(loader)
    return [next(stream) for _ in range(number)]


def require_equal(one: list[Batch], other: list[Batch]) -> None:
    for a, b in zip(one, other, strict=True):
        for name in ("images", "image_sizes", "original_sizes", "masks", "image_index"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        for name in ("points", "boxes", "mask_ids"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert a.positions == b.positions


@pytest.mark.parametrize("more", [{}, {"mask_sampling": "area"}, {"scale_jitter": [0.5, 2.0]}])
def test_samples_are_those_of_the_conversion(
    coco: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    shards = opened(str(converted(coco, tmp_path / "out")))
    direct = opened(f"coco:{coco}")
    assert len(direct) == len(shards) == PHOTOS
    assert [direct.key(k) for k in (0, 8)] == ["zoo/p0.jpg", "zoo/p8.jpg"]
    # More than an epoch.
    require_equal(batches(direct, 5, **more), batches(shards, 5, **more))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_annotations_no_more(coco: Path, start: str) -> None:
    shards = opened(f"coco:{coco}")
    expected = batches(shards, 5)
    (coco / "instances.json").unlink()
    require_equal(batches(shards, 5, workers=2, start_method=start), expected)


def test_a_run_goes_on_behind_its_last_position(coco: Path) -> None:
    def module() -> SamDataModule:
        cfg = DataConfig(train=f"coco:{coco}", batch_size=4, masks_per_image=3, workers=0)
        data = SamDataModule(cfg, image_size=64, grid_size=16, seed=3, accumulate=1)
        data.setup("fit")
        return data

    first = module()
    expected = [batch for batch, _ in zip(first.train_dataloader(), range(5), strict=False)]
    later = module()
    later.load_state_dict({**first.state_dict(), "position": 12, "step": 3})
    found = [batch for batch, _ in zip(later.train_dataloader(), range(2), strict=False)]
    require_equal(found, expected[3:])


def test_another_listing_is_another_order(
    coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = opened(f"coco:{coco}").fingerprint
    moved = tmp_path / "elsewhere"
    shutil.copytree(coco, moved)
    assert opened(f"coco:{moved}").fingerprint == before
    content = json.loads((moved / "instances.json").read_text())
    content["images"][3:5] = content["images"][4:2:-1]  # neither the first nor the last
    (moved / "instances.json").write_text(json.dumps(content))
    after = opened(f"coco:{moved}").fingerprint
    assert (after.samples, after.shards) == (before.samples, before.shards)
    assert after != before


def test_beside_shards_and_with_options(coco: Path, tmp_path: Path) -> None:
    shards = converted(coco, tmp_path / "out")
    both = opened([f"coco:{coco}", str(shards), {"reader": "coco", "path": str(coco)}])
    assert len(both) == 3 * PHOTOS
    assert both.key(0).startswith("sa_000000.tar/sa_1")
    assert both.first.tolist() == [0, PHOTOS, 2 * PHOTOS, 3 * PHOTOS]
    crowds = opened({"reader": "coco", "path": str(coco), "crowds": True})
    assert masks_of(crowds, 0) == masks_of(both, 2 * PHOTOS) + 1


def masks_of(shards: Shards, sample: int) -> int:
    return shards.read(sample).json.count(b'"segmentation"')


def test_lists_of_samples_and_groups_name_the_photos(coco: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("zoo/p1.jpg\np7.jpg\n")
    some = opened(f"coco:{coco}", exclude=str(tmp_path / "bad.txt"))
    keys = [some.key(k) for k in range(len(some))]
    assert keys == [f"zoo/p{k}.jpg" for k in range(PHOTOS) if k not in (1, 7)]
    (coco / "groups.tsv").write_text("name\tgroup\np2.jpg\ta\nzoo/p3\tb\n")
    assert groups_of(some, samples=4) == {1: "a", 2: "b"}


def test_photos_that_are_no_jpeg_come_without_loss(tmp_path: Path) -> None:
    """16 bits as `convert` shows them, and 8 bits as they are."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    deep = np.linspace(500, 9000, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "images/a.png")
    noise(40, 60, 1).save(tmp_path / "images/b.png")
    for name in "ab":
        labels = np.zeros((40, 60), dtype=np.uint8)
        labels[5:20, 5:30], labels[22:35, 30:50] = 1, 2
        Image.fromarray(labels).save(tmp_path / f"masks/{name}.png")
    shards = opened(f"masks:{tmp_path}")
    plain = shards.read(1)
    assert np.array_equal(plain.pixels, np.asarray(noise(40, 60, 1)))
    grey = shards.read(0).pixels
    assert grey is not None
    # Black and white are the values at the 0.5th and 99.5th percentile.
    low, high = np.sort(deep.ravel())[[12, 2387]].astype(float)
    expected = np.clip((deep - low) / (high - low), 0, 1) * 255
    assert np.abs(grey[..., 1] - expected).max() <= 0.51
    (batch,) = batches(shards, 1, batch_size=2)
    assert len(batch.masks) == 4


def test_what_cannot_be_used_is_counted_and_replaced(
    coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (coco / "images/p2.jpg").write_bytes(b"no photo")
    (coco / "images/p5.jpg").write_bytes((coco / "images/p5.jpg").read_bytes()[:900])
    (coco / "images/p6.jpg").unlink()
    shards = opened(f"coco:{coco}")
    assert "left out 9 masks, crowd: instances.json: annotation 99" in caplog.text
    with pytest.raises(BadSample, match=r"unreadable image: p2\.jpg"):
        shards.read(2)
    cfg = DataConfig(batch_size=9, masks_per_image=3, workers=0)
    skips = Skips(workers=0, max_fraction=1.0)
    loader = make_train_loader(shards, cfg, image_size=64, grid_size=16, seed=3, skips=skips)
    batch = next(iter(loader))
    assert not {"zoo/p2.jpg", "zoo/p5.jpg", "zoo/p6.jpg"} & set(batch.keys)
    totals = skips.totals()
    assert totals["unusable"] >= 2
    assert totals["bad_jpeg"] >= 1
    # Of each photo read: the mask of no pixel, and that of another size.
    assert totals["unusable_mask"] >= 2 * len(set(batch.keys))
    line = describe(skips.tally(), shards, option="data.train") or ""
    for said in ("cannot be used", "first: zoo/p", "left out 9 masks, crowd"):
        assert said in line


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("cooc:{0}", r"data\.train: there is no kind cooc \(did you mean coco\?\)"),
        ("yolov8:{0}", "there is no kind yolov8; write it as yolo"),
        ("coco:{0}/nowhere", "coco: .*/nowhere does not exist"),
        ("shards:{0}", r"looks like a data set of the format coco: data\.train=coco:{0} trains"),
        ("lvis:{0}", "lvis has no annotations below"),
    ],
)
def test_errors_name_the_way_out(coco: Path, pattern: str, said: str) -> None:
    with pytest.raises(UserError, match=said.format(coco)) as error:
        opened(pattern.format(coco))
    assert "\n" not in str(error.value)


def test_a_data_set_without_a_photo_says_why(coco: Path) -> None:
    (coco / "masks").mkdir()
    with pytest.raises(UserError, match=r"masks has no image \(left out 9 images, no mask file"):
        opened(f"masks:{coco}")


def test_masks_limits_evaluation_alone(coco: Path) -> None:
    with pytest.raises(UserError, match="a data set of coco has no masks; it has annotations"):
        opened({"reader": "coco", "path": str(coco), "masks": 4})


def test_tools_and_streams_read_shards_alone(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage_in.main([f"coco:{coco}", "--to", str(tmp_path / "staged")]) == 2
    assert "`python -m data_tools.convert coco --help` makes shards" in capsys.readouterr().err
    cfg = DataConfig(train=f"coco:{coco}", mode="stream", batch_size=1, workers=0)
    data = SamDataModule(cfg, image_size=64, grid_size=16, seed=0)
    with pytest.raises(UserError, match=r"data\.mode=indexed"):
        data.setup("fit")


def test_a_path_with_a_colon_is_a_path(coco: Path, tmp_path: Path) -> None:
    out = converted(coco, tmp_path / "coco:out")
    assert len(opened(str(out))) == PHOTOS


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
