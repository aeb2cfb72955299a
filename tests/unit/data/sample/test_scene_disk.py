"""A kept scene equals a read one, is made again when its files change, and needs no photo."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam_train.data.photos import jpeg
from sam_train.data.sample import scenes as reading
from sam_train.data.sample.decode import as_rle
from sam_train.data.sample.scene import Scene
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """PNGs with label maps; one mask has another size than its photo."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for k in range(3):
        draw = np.random.default_rng(k)
        pixels = draw.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
        labels = np.zeros((40, 60), dtype=np.uint8)
        labels[5:20, 5:20], labels[22:38, 10 : 50 - k] = 1, 2
        Image.fromarray(labels).save(folder / "masks" / f"{k}.png")
    return folder


def scenes(train: str, cache: Path | None, **settings: Any) -> tuple[Scenes, Skips]:
    shards = open_shards(train, option="data.train", formats=True)
    skips = Skips(workers=0, max_fraction=1.0)
    options = {"image_size": 32, "max_area_fraction": 0.9, **settings}
    return Scenes(shards, skips=skips, disk_cache=str(cache or ""), **options), skips


def same(a: Scene, b: Scene) -> bool:
    height, width = a.frame.original
    masks = range(len(a.runs.status))
    runs = ("ends", "starts", "status", "areas", "extents")
    return (
        a.frame == b.frame
        and np.array_equal(a.image, b.image)
        and np.array_equal(a.usable, b.usable)
        and all(np.array_equal(getattr(a.runs, n), getattr(b.runs, n)) for n in runs)
        and [as_rle(a.masks, k, height=height, width=width) for k in masks]
        == [as_rle(b.masks, k, height=height, width=width) for k in masks]
    )


def no_photo(*_: Any, **__: Any) -> None:
    raise AssertionError("a photo was decoded")


def test_a_second_run_decodes_no_photo(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, cache = f"masks:{photos}", tmp_path / "cache"
    plain = [scenes(train, None)[0].get(k, draw_key=(0, 0, k)) for k in range(3)]
    first, _ = scenes(train, cache)
    for k in range(3):
        assert same(first.get(k, draw_key=(0, 0, k)), plain[k])
    second, _ = scenes(train, cache)
    monkeypatch.setattr(jpeg, "opened", no_photo)
    for k in range(3):
        kept = second.get(k, draw_key=(0, 0, k))
        assert same(kept, plain[k])
        assert kept.runs.ends.flags.aligned
        assert kept.usable.flags.aligned


def test_shards_are_kept_too(
    shard: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, cache = str(shard(3)), tmp_path / "cache"
    plain = [scenes(train, cache)[0].get(k, draw_key=(0, 0, k)) for k in range(3)]
    monkeypatch.setattr(reading, "to_rgb", no_photo)
    again, _ = scenes(train, cache)
    assert all(same(again.get(k, draw_key=(0, 0, k)), plain[k]) for k in range(3))


@pytest.mark.parametrize("changed", ["photo", "mask", "size", "jitter", "area", "entry"])
def test_nothing_stale_is_read(photos: Path, tmp_path: Path, changed: str) -> None:
    """Other files and other settings are other entries; a damaged entry is made again."""
    train, cache = f"masks:{photos}", tmp_path / "cache"
    scenes(train, cache)[0].get(0, draw_key=(0, 0, 0))
    settings: dict[str, Any] = {}
    if changed in ("photo", "mask"):
        path = photos / ("images" if changed == "photo" else "masks") / "0.png"
        pixels = np.asarray(Image.open(path))[::-1].copy()
        Image.fromarray(pixels).save(path)
        # The same second on a coarse clock would hide the change.
        os.utime(path, ns=(1, 1))
    elif changed == "entry":
        for path in cache.rglob("*"):
            if path.is_file() and path.stat().st_size > 100:
                content = bytearray(path.read_bytes())
                content[-40] ^= 1
                path.write_bytes(content)
    else:
        settings = {
            "size": {"image_size": 16},
            "jitter": {"scale_jitter": [1.0, 1.0]},
            "area": {"max_area_fraction": 0.2},
        }[changed]
    expected = scenes(train, None, **settings)[0].get(0, draw_key=(0, 0, 0))
    assert same(scenes(train, cache, **settings)[0].get(0, draw_key=(0, 0, 0)), expected)


def test_what_was_left_out_is_counted_in_every_run(photos: Path, tmp_path: Path) -> None:
    file = {"size": [40, 60], "counts": [[10, 300, 2090], [5, 5, 5], [0, 1, 2]]}
    (photos / "rle.json").write_text(json.dumps({"0": file}))
    train, cache = f"rle:{photos}", tmp_path / "cache"
    counts = []
    for _ in range(2):
        source, skips = scenes(train, cache)
        source.get(0, draw_key=(0, 0, 0))
        counts.append(skips.totals())
    assert counts[0] == counts[1]
    assert counts[0]["unusable_mask"] == 2


def test_a_full_folder_is_no_error(photos: Path, tmp_path: Path) -> None:
    train, cache = f"masks:{photos}", tmp_path / "cache"
    plain = scenes(train, None)[0].get(0, draw_key=(0, 0, 0))
    for _ in range(2):
        source, _ = scenes(train, cache, disk_cache_gb=1e-9)
        assert same(source.get(0, draw_key=(0, 0, 0)), plain)
