"""A position gives one sample, whoever asks; a bad one is counted and replaced."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from sam_train.data.feed.order import Order
from sam_train.data.sample.dataset import TrainDataset, ValDataset
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.types import Sample

S, R = 32, 16


def datasets(
    path: Path, *, cache: bool = False, limit: int = 4, seed: int = 0, max_fraction: float = 1.0
) -> tuple[TrainDataset, ValDataset, Skips]:
    shards = open_shards(str(path), option="data.train")
    skips = Skips(workers=0, max_fraction=max_fraction)
    scenes = Scenes(shards, image_size=S, max_area_fraction=0.9, skips=skips, cache=cache)
    order = Order(samples=len(shards), seed=seed)
    train = TrainDataset(scenes, order=order, masks_per_image=limit, grid_size=R)
    return train, ValDataset(scenes, masks_per_image=None, grid_size=R), skips


def same(a: Sample, b: Sample) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Sample)]
    return all(np.array_equal(x, y) for x, y in pairs)


def test_a_sample_is_a_pure_function_of_its_position(shard: Callable[..., Path]) -> None:
    path = shard(6)
    forwards, _, _ = datasets(path)
    backwards, _, _ = datasets(path, cache=True)
    samples = [forwards.sample(p) for p in range(12)]
    for sample in reversed(samples):
        assert same(backwards.sample(sample.position), sample)
    # The second epoch comes from the cache, with draws of its own.
    by_key = {s.key: s for s in samples[:6]}
    assert any(not np.array_equal(s.points, by_key[s.key].points) for s in samples[6:])
    ids = np.concatenate([s.mask_ids for s in samples])
    assert len(np.unique(ids)) == len(ids)


def test_masks_points_and_boxes_are_those_of_the_drawn_annotations(
    shard: Callable[..., Path],
) -> None:
    """Against bitmaps of pycocotools, for the validation set, which carries its RLEs."""
    _, dataset, _ = datasets(shard(3))
    for index in range(3):
        sample = dataset[index]
        assert sample is not None
        assert sample.rles is not None
        assert len(sample.rles) == len(sample.masks) > 0
        height, width = sample.original_size
        assert sample.image.shape == (round(height * S / width), S, 3)
        for k, rle in enumerate(sample.rles):
            bitmap = coco.decode(rle)
            scale = np.array([S / width, sample.image.shape[0] / height])
            x, y = np.rint((sample.points[k] + 0.5) / scale - 0.5).astype(int)
            assert bitmap[y, x] == 1
            rows, columns = np.nonzero(bitmap)
            corners = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
            assert np.allclose(sample.boxes[k].reshape(2, 2), (corners + 0.5) * scale - 0.5)
            assert not sample.masks[k, R * sample.image.shape[0] // S + 1 :].any()


def test_first_points_are_uniform_over_the_original_mask(tmp_path: Path, make: Any) -> None:
    mask = np.zeros((1, 30, 44), dtype=np.uint8)
    mask[0, 4, 4], mask[0, 20:22, 40] = 1, 1  # the first lies at the centre of a cell
    files = [("sa_0.jpg", make.photo(30, 44, seed=0)), ("sa_0.json", make.record(0, mask))]
    train, _, _ = datasets(make.pack(tmp_path / "a.tar", files), cache=True)
    n = 3000
    points = np.concatenate([train.sample(p).points for p in range(n)])
    _, counts = np.unique(points, axis=0, return_counts=True)
    assert len(counts) == 3
    assert ((counts - n / 3) ** 2 / (n / 3)).sum() < 13.8  # 0.1 %, 2 degrees of freedom


def bad_samples(make: Any) -> list[tuple[str, bytes]]:
    """One sample for each thing that can be wrong with one."""
    shapes = make.ellipses(2, height=30, width=44, seed=0)
    full, good = np.ones((1, 30, 44), dtype=np.uint8), make.photo(30, 44, seed=0)
    png = io.BytesIO()
    Image.new("RGB", (44, 30)).save(png, "PNG")
    return [
        ("jpeg.jpg", good[: len(good) // 2]),
        ("jpeg.json", make.record(0, shapes)),
        ("png.jpg", png.getvalue()),
        ("png.json", make.record(0, shapes)),
        ("json.jpg", good),
        ("json.json", b'{"annotations": 3}'),
        ("size.jpg", good),
        ("size.json", make.record(0, shapes.transpose(0, 2, 1))),
        ("full.jpg", good),
        ("full.json", make.record(0, full)),
        ("none.jpg", good),
        ("none.json", make.record(0, full[:0])),
    ]


KINDS = {"bad_jpeg": 2, "bad_json": 1, "bad_rle": 1, "no_masks": 2}


def test_bad_samples_are_counted_by_kind_and_replaced_the_same_way_each_time(
    shard: Callable[..., Path], make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard(4, *bad_samples(make))
    dataset, val, skips = datasets(path)
    samples = [dataset.sample(p) for p in range(10)]
    assert {s.key.split("/")[-1] for s in samples} <= {f"sa_{k}" for k in range(4)}
    first_pass = skips.totals()
    assert all(first_pass[kind] >= count for kind, count in KINDS.items())
    assert "sa_000000.tar/json" in caplog.text
    again, _, _ = datasets(path)
    assert all(same(again.sample(s.position), s) for s in reversed(samples))
    # Validation counts each once and puts nothing in its place.
    _, val, skips = datasets(path)
    assert [val[k] is not None for k in range(10)] == [True] * 4 + [False] * 6
    assert skips.totals() == KINDS


def test_one_bad_mask_costs_only_itself(tmp_path: Path, make: Any) -> None:
    files = make.sample_files(0, masks=3)
    broken = files[1][1].replace(b'"counts": "', b'"counts": " ', 1)
    path = make.pack(tmp_path / "a.tar", [files[0], (files[1][0], broken)])
    train, _, skips = datasets(path)
    assert len(train.sample(0).masks) == 2
    assert skips.totals() == {"bad_mask": 1}


def test_a_shard_that_vanishes_is_counted(shard: Callable[..., Path]) -> None:
    path = shard(2)
    _, val, skips = datasets(path)
    path.unlink()
    assert val[0] is None
    assert skips.totals() == {"unreadable": 1}


def test_warnings_become_rare(caplog: pytest.LogCaptureFixture) -> None:
    skips = Skips(workers=0, max_fraction=1)
    with caplog.at_level(logging.WARNING):
        for k in range(1234):
            skips.add("bad_jpeg", f"photo {k}", index=k)
    shown = [r.getMessage().split(": ")[-1] for r in caplog.records]
    assert shown == [f"photo {k}" for k in (0, 1, 2, 9, 99, 999)]


def test_too_many_bad_samples_stop_the_run_with_one_line(
    shard: Callable[..., Path], make: Any
) -> None:
    path = shard(9, *bad_samples(make)[:2])
    allowed, _, _ = datasets(path, max_fraction=0.3)
    for position in range(400):
        allowed.sample(position)
    dataset, _, _ = datasets(path, max_fraction=0.05)
    with pytest.raises(UserError, match=r"of 1\d\d samples .*corrupt.*max_skip_fraction"):
        for position in range(400):
            dataset.sample(position)


def test_a_set_without_one_usable_sample_stops_at_once(tmp_path: Path, make: Any) -> None:
    dataset, _, _ = datasets(make.pack(tmp_path / "bad.tar", bad_samples(make)))
    with pytest.raises(UserError, match="in a row could not be used") as caught:
        dataset.sample(0)
    assert "\n" not in str(caught.value)


def test_scaled_jpegs_and_covered_cells_change_nothing_that_is_drawn(
    tmp_path: Path, make: Any
) -> None:
    """Photos of four times the input: only pixels and edges of masks may differ, and little."""
    files = make.sample_files(1, masks=6, height=128, width=190)
    shards = open_shards(str(make.pack(tmp_path / "a.tar", files)), option="data.train")
    samples = []
    for options in ({}, {"jpeg": "scaled", "mask_sampling": "area"}):
        skips = Skips(workers=0, max_fraction=1.0)
        scenes = Scenes(shards, image_size=S, max_area_fraction=0.9, skips=skips, **options)
        order = Order(samples=1, seed=0)
        train = TrainDataset(scenes, order=order, masks_per_image=4, grid_size=R)
        samples.append(train.sample(0))
    exact, scaled = samples
    for name in ("points", "boxes", "mask_ids"):
        assert np.array_equal(getattr(exact, name), getattr(scaled, name))
    assert exact.image.shape == scaled.image.shape
    assert (exact.image != scaled.image).any()
    assert 0 < (exact.masks != scaled.masks).mean() < 0.05
