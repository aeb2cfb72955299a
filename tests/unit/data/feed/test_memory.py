"""A worker's memory: blocks in turn on the way to the training process, freed pages used again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from sam_train.data.config import DataConfig
from sam_train.data.feed.loader import make_train_loader
from sam_train.data.feed.slots import SharedSlots, slots_needed
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.types import Batch


def batches(path: Path, *, workers: int, count: int) -> list[Batch]:
    # Batches of many sizes: samples of two to six masks, drawn anew each time.
    cfg = DataConfig(train=str(path), batch_size=2, masks_per_image=5, workers=workers, prefetch=2)
    loader = make_train_loader(
        open_shards(cfg.train, option="data.train"),
        cfg,
        image_size=32,
        grid_size=16,
        seed=3,
        skips=Skips(workers=workers, max_fraction=1),
    )
    return list(islice(loader, count))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_stays_as_it_is_when_its_block_is_written_again(
    shard: Callable[..., Path], workers: int
) -> None:
    """All are kept, many more than there are blocks, and compared at the end."""
    path = shard(7)
    count = 6 * workers * slots_needed(2)
    kept = batches(path, workers=workers, count=count)
    for own, other in zip(kept, batches(path, workers=0, count=count), strict=True):
        assert torch.equal(own.images, other.images)
        assert torch.equal(own.masks, other.masks)
        assert torch.equal(own.points, other.points)
        assert own.keys == other.keys
        assert not own.images.is_shared()


def test_blocks_come_in_turn_and_grow() -> None:
    slots = SharedSlots(3)
    first = [slots.take(10).data_ptr() for _ in range(3)]
    assert len(set(first)) == 3
    assert [slots.take(n).data_ptr() for n in (10, 4, 7)] == first
    larger = slots.take(100)
    assert larger.shape == (100,)
    assert larger.is_shared()
    assert [slots.take(1).data_ptr() for _ in range(3)] == [*first[1:], larger.data_ptr()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_freed_memory_is_used_again() -> None:
    """Page faults of twenty arrays of 16 MiB in turn: about those of one, not of twenty."""
    program = """
import resource, sys
import numpy as np
from sam_train.runtime.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def use():
    a, b = np.ones(1 << 24, np.uint8), np.ones(1 << 24, np.uint8)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, "keep"], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) < 1000, "pages of 4 KiB; one array has 4096"
