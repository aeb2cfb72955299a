"""Batches: the same at any number of workers and ranks; errors of workers in one line."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from sam_train.data.config import DataConfig, check
from sam_train.data.feed.loader import make_train_loader, make_val_loader
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.types import Batch

S, R = 32, 16


def train_batches(cfg: DataConfig, count: int, **options: Any) -> list[Batch]:
    skips = options.pop("skips", None) or Skips(workers=cfg.workers, max_fraction=1)
    shards = open_shards(cfg.train, option="data.train")
    loader = make_train_loader(
        shards, cfg, image_size=S, grid_size=R, seed=1, skips=skips, **options
    )
    return list(islice(loader, count))


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.keys == y.keys
        assert x.positions == y.positions
        for name in ("images", "masks", "points", "boxes", "mask_ids", "image_index"):
            assert torch.equal(getattr(x, name), getattr(y, name)), name


def test_shapes_types_and_padding_are_as_promised(shard: Callable[..., Path]) -> None:
    cfg = DataConfig(train=str(shard(5)), batch_size=4, masks_per_image=3, workers=0)
    (batch,) = train_batches(cfg, 1)
    M = batch.num_masks
    assert batch.images.shape == (4, 3, S, S)
    assert batch.images.dtype == batch.masks.dtype == torch.uint8
    assert batch.image_sizes.tolist() == [[22, 32]] * 4
    assert batch.original_sizes.tolist() == [[30, 44]] * 4
    assert batch.images[:, :, 22:].max() == 0
    assert batch.images[:, :, :22].float().mean() > 20
    assert batch.masks.shape == (M, R, R)
    assert batch.points.shape == (M, 2)
    assert batch.boxes.shape == (M, 4)
    assert batch.points.dtype == batch.boxes.dtype == torch.float32
    assert batch.image_index.tolist() == sorted(batch.image_index.tolist())
    assert batch.image_index.bincount(minlength=4).max() <= 3
    assert (batch.mask_ids >> 16).tolist() == [batch.positions[i] for i in batch.image_index]
    assert batch.rles is None


@pytest.mark.parametrize(("workers", "method"), [(1, "fork"), (2, "fork"), (1, "spawn")])
def test_workers_do_not_change_the_batches(
    shard: Callable[..., Path], workers: int, method: str
) -> None:
    path = str(shard(5, ("bad.jpg", b""), ("bad.json", b"")))
    options: dict[str, Any] = {"train": path, "batch_size": 2, "masks_per_image": 3}
    expected_skips = Skips(workers=0, max_fraction=1)
    expected = train_batches(DataConfig(workers=0, **options), 6, skips=expected_skips)
    skips = Skips(workers=workers, max_fraction=1)
    cfg = DataConfig(workers=workers, start_method=method, cache=True, **options)
    assert_same(train_batches(cfg, 6, skips=skips), expected)
    # Workers read ahead, so they may have met more of them.
    assert skips.totals()["bad_jpeg"] >= expected_skips.totals()["bad_jpeg"] >= 1


def test_ranks_and_accumulation_divide_the_same_step(shard: Callable[..., Path]) -> None:
    cfg = DataConfig(train=str(shard(7)), batch_size=4, masks_per_image=3, workers=0)
    whole = train_batches(cfg, 3)
    for world, accumulate in [(2, 1), (1, 2), (2, 2)]:
        parts = [
            train_batches(cfg, 3 * accumulate, rank=r, world_size=world, accumulate=accumulate)
            for r in range(world)
        ]
        for step, batch in enumerate(whole):
            mine = [
                b for of_rank in parts for b in of_rank[step * accumulate : (step + 1) * accumulate]
            ]
            assert [p for b in mine for p in b.positions] == batch.positions
            assert torch.equal(torch.cat([b.mask_ids for b in mine]), batch.mask_ids)
            assert torch.equal(torch.cat([b.points for b in mine]), batch.points)


def test_masks_per_gpu_bounds_a_micro_batch_and_never_what_is_drawn(
    shard: Callable[..., Path],
) -> None:
    settings: dict[str, Any] = {"train": str(shard(7)), "batch_size": 8, "workers": 0}
    cfg = DataConfig(masks_per_image=3, masks_per_gpu=6, **settings)
    with pytest.raises(UserError, match=r"trainer\.accumulate=4.*data\.masks_per_gpu"):
        train_batches(cfg, 1)
    with pytest.raises(UserError, match=r"trainer\.accumulate=2"):
        train_batches(cfg, 1, world_size=2)
    with pytest.raises(UserError, match=r"smaller data\.masks_per_image"):
        train_batches(DataConfig(masks_per_image=7, masks_per_gpu=6, **settings), 1)
    split = [train_batches(cfg, 4, accumulate=4), train_batches(cfg, 1, world_size=4)]
    # Only the paper's recipes set a limit: 8 photos with 16 masks each are nobody's mistake.
    assert sum(b.num_masks for b in train_batches(DataConfig(masks_per_image=16, **settings), 1))
    whole = train_batches(DataConfig(masks_per_image=3, masks_per_gpu=None, **settings), 1)
    assert max(batch.num_masks for batch in split[0]) == 6
    assert torch.equal(torch.cat([b.mask_ids for b in split[0]]), whole[0].mask_ids)
    assert torch.equal(split[1][0].points, whole[0].points[: split[1][0].num_masks])


@pytest.mark.parametrize("window", [1, 2])
def test_a_window_keeps_reading_within_its_shards(shard: Callable[..., Path], window: int) -> None:
    for k in range(3):
        path = shard(3 + k, name=f"sa_{k:06d}.tar", first=10 * k)
    cfg = DataConfig(
        train=str(path.parent), batch_size=4, masks_per_image=2, workers=0, shuffle_window=window
    )
    keys = [key for batch in train_batches(cfg, 3) for key in batch.keys]
    assert len(set(keys)) == 12
    shards = [key.split("/")[0] for key in keys]
    assert len(set(shards[:3])) <= window
    last = [len(shards) - 1 - shards[::-1].index(s) for s in dict.fromkeys(shards)]
    first = [shards.index(s) for s in dict.fromkeys(shards)]
    assert all(first[k + window] > min(last) for k in range(3 - window))


def test_a_start_position_continues_an_unbroken_run(shard: Callable[..., Path]) -> None:
    cfg = DataConfig(train=str(shard(5)), batch_size=3, masks_per_image=3, workers=0)
    assert_same(train_batches(cfg, 3, start=lambda: 9), train_batches(cfg, 6)[3:])


@pytest.mark.parametrize("workers", [0, 1])
def test_systematic_damage_is_one_line_from_any_process(
    tmp_path: Path, make: Any, workers: int
) -> None:
    path = make.pack(tmp_path / "bad.tar", [("a.jpg", b"x"), ("a.json", b"{}")])
    cfg = DataConfig(train=str(path), batch_size=1, workers=workers)
    with pytest.raises(UserError) as caught:
        train_batches(cfg, 1)
    assert "bad.tar/a" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_is_the_first_images_once_over_all_ranks(
    shard: Callable[..., Path], world: int
) -> None:
    shard(3, ("zz.jpg", b""), ("zz.json", b""))
    shard(5, name="sa_000001.tar", first=10)
    folder = str(shard(1, name="sa_000002.tar", first=20).parent)
    cfg = DataConfig(val=folder, val_images=7, val_masks_per_image=2, val_batch_size=2, workers=0)
    shards = open_shards(cfg.val, option="data.val")
    skips = Skips(workers=0, max_fraction=0)
    loaders = [
        make_val_loader(
            shards, cfg, image_size=S, grid_size=R, skips=skips, rank=r, world_size=world
        )
        for r in range(world)
    ]
    seen = [b for loader in loaders for b in loader]
    keys = sorted(key for b in seen for key in b.keys)
    first = [f"sa_000000.tar/sa_{k}" for k in range(3)]
    assert keys == first + [f"sa_000001.tar/sa_{k}" for k in (10, 11, 12)]
    assert skips.totals() == {"bad_jpeg": 1}
    for batch in seen:
        assert batch.rles is not None
        assert len(batch.rles) == batch.num_masks
        assert batch.image_index.bincount().max() <= 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"workers": -1},
        {"max_area_fraction": 1.5},
        {"masks_per_gpu": 0},
        {"shuffle_window": -1},
        {"masks_per_image": 70_000},
        {"start_method": "thread"},
        {"jpeg": "half"},
        {"mask_sampling": "bilinear"},
    ],
)
def test_settings_that_mean_nothing_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(wrong))}="):
        check(DataConfig(**wrong))
