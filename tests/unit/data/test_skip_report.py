"""The line at the end of a run: counts, the first of each kind, over workers and ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.skips import Skips, Tally, add_up


def module(path: Path, *, workers: int) -> SamDataModule:
    cfg = DataConfig(
        train=str(path), val=str(path), batch_size=4, masks_per_image=9, workers=workers
    )
    data = SamDataModule(cfg, image_size=32, grid_size=8, seed=0)
    data.setup("fit")
    return data


@pytest.mark.parametrize("workers", [0, 1])
def test_every_kind_is_named_with_its_first_sample(
    shard: Callable[..., Path], make: Any, workers: int
) -> None:
    jpeg, json = (data for _, data in make.sample_files(9))
    broken_mask = json.replace(b'"counts": "', b'"counts": " ', 1)
    extra = [
        *(("b.jpg", b"x"), ("b.json", json), ("a.jpg", b"y"), ("a.json", json)),
        *(("c.jpg", jpeg), ("c.json", b"{}"), ("d.jpg", jpeg), ("d.json", broken_mask)),
        *(("lonely.jpg", jpeg), ("left.json", json)),
    ]
    data = module(shard(3, *extra), workers=workers)
    list(data.val_dataloader())
    train, val = data.skip_report(lambda tally: tally)
    left = (
        "left out 1 without a JSON (first: sa_000000.tar/lonely.jpg); "
        "left out 1 without a photo (first: sa_000000.tar/left.json)"
    )
    assert train == f"data.train: {left}"
    assert val == (
        "data.val: skipped 3 of 7 samples read: "
        "2 corrupt or oversized JPEG (first: sa_000000.tar/b), "
        "1 corrupt JSON (first: sa_000000.tar/c); "
        "skipped 1 single masks with an invalid RLE (their photo was used) "
        f"(first: sa_000000.tar/d); {left}"
    )


def test_nothing_is_said_where_nothing_was_skipped(shard: Callable[..., Path]) -> None:
    data = module(shard(3), workers=0)
    list(data.val_dataloader())
    assert data.skip_report(lambda tally: tally) == []


def test_tallies_of_ranks_add_up() -> None:
    ranks = [Skips(workers=0, max_fraction=1) for _ in range(3)]
    for rank, skips in enumerate(ranks):
        for _ in range(10):
            skips.read()
        skips.add("bad_jpeg", "", index=7 - rank)
    ranks[1].add("bad_json", "", index=4)
    assert add_up(s.tally() for s in ranks) == Tally(
        read=30, counts={"bad_jpeg": 3, "bad_json": 1}, examples={"bad_jpeg": 5, "bad_json": 4}
    )
