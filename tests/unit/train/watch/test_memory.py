"""What is said when memory ends, and that it is right about what takes less."""

from __future__ import annotations

import errno
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam_train.errors import UserError
from sam_train.settings.run import RunConfig
from sam_train.train.watch import memory
from sam_train.train.watch.memory import (
    GIB,
    Load,
    Memory,
    advice,
    choices,
    estimate,
    is_out_of_memory,
    measure,
    memory_advice,
)

LOAD = Load(images=4, masks=16, recompute="none", low=False, split=False)


def config(images: int = 8, accumulate: int = 1) -> RunConfig:
    cfg = RunConfig()
    cfg.model.name = "vit_b"
    cfg.data.batch_size = images
    cfg.data.masks_per_image = 16
    cfg.trainer.accumulate = accumulate
    return cfg


def test_the_allocators_own_errors_are_known() -> None:
    with pytest.raises(RuntimeError) as host:
        torch.empty(2**50)
    assert is_out_of_memory(host.value)
    with pytest.raises(MemoryError) as numpy:
        np.ones(2**50)
    assert is_out_of_memory(numpy.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(other.value)
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))


def test_everything_that_is_offered_takes_less() -> None:
    cfg = config()
    full = estimate(cfg, LOAD, ranks=1)
    for lighter in (
        replace(LOAD, images=2),
        replace(LOAD, masks=8),
        replace(LOAD, recompute="selective"),
        replace(LOAD, low=True),
    ):
        assert estimate(cfg, lighter, ranks=1) < full
    split = replace(LOAD, split=True)
    assert estimate(cfg, split, ranks=2) < estimate(cfg, LOAD, ranks=2) == full
    selective, whole = (replace(LOAD, recompute=mode) for mode in ("selective", "full"))
    assert estimate(cfg, whole, ranks=1) < estimate(cfg, selective, ranks=1)
    words = [words for words, _ in choices(cfg, replace(LOAD, images=8), ranks=1)]
    assert words[:3] == [f"trainer.accumulate={n}" for n in (2, 4, 8)]
    assert words[3:5] == [f"model.checkpoint_blocks={mode}" for mode in ("selective", "full")]
    # Two ranks and two turns already: only what divides the images of a rank.
    assert "trainer.strategy=fsdp2" not in words
    words = [words for words, _ in choices(config(12, 2), LOAD, ranks=2)]
    assert "trainer.strategy=fsdp2" in words
    assert words[:2] == ["trainer.accumulate=3", "trainer.accumulate=6"]


def test_the_mildest_setting_that_fits_comes_first() -> None:
    text = advice(config(), Memory(used=40 * GIB, total=40 * GIB), ranks=1)
    first, second = text.splitlines()
    assert "40 GiB of 40 GiB were in use, with 8 image(s) of 16 masks" in first
    assert second.startswith("would fit, by estimate: trainer.accumulate=2 (about")
    # Gradients and moments alone take 1 GiB.
    assert "no setting of these would fit" in advice(config(), Memory(used=GIB, total=GIB), ranks=1)
    # What was in use before is there with every setting; and there may be room that was not enough.
    base = advice(config(), Memory(used=40 * GIB, total=40 * GIB, base=30 * GIB), ranks=1)
    assert "trainer.accumulate=2" not in base
    assert "trainer.accumulate=" in base
    roomy = Memory(used=10 * GIB, total=40 * GIB, floor=8.0)
    assert "would fit, by estimate: trainer.accumulate=" in advice(config(), roomy, ranks=1)


def test_the_paper_measured_vit_h_fits_as_it_was_trained() -> None:
    """One image with 64 masks per GPU of 40 or 80 GB; four without recomputation do not fit."""
    cfg = config()
    cfg.model.name = "vit_h"
    load = Load(images=1, masks=64, recompute="none", low=True, split=False)
    assert 12 * GIB < estimate(cfg, load, ranks=256) < 40 * GIB
    assert estimate(cfg, replace(load, images=8), ranks=256) > 80 * GIB


def test_memory_is_measured_against_its_limit() -> None:
    memory = measure()
    assert 0 < memory.used <= memory.total
    assert memory.used > 2**25


def test_what_the_step_held_is_let_go_before_it_is_spoken_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last of the memory may be in there."""
    held: list[weakref.ref[torch.Tensor]] = []

    def step() -> None:
        activations = torch.zeros(3)
        held.append(weakref.ref(activations))
        try:
            raise MemoryError
        except MemoryError as error:
            raise RuntimeError("std::bad_alloc") from error

    def advice(*_: Any) -> str:
        return "freed" if held[0]() is None else "still held"

    monkeypatch.setattr(memory, "advice", advice)
    with pytest.raises(UserError, match=r"^freed"), memory_advice(config()):
        step()


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advice(config()):
        raise RuntimeError("shapes")
    with pytest.raises(UserError, match="out of memory on rank 0"), memory_advice(config()):
        torch.empty(2**50)
    with pytest.raises(UserError, match=r"data\.workers"), memory_advice(config()):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
