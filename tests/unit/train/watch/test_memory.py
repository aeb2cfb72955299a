"""The line that a run ends with when memory does."""

from __future__ import annotations

import errno
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam_train.errors import OutOfMemoryError, UserError
from sam_train.settings.run import RunConfig
from sam_train.train.watch import memory
from sam_train.train.watch.memory import is_out_of_memory, measure, memory_advice


def config() -> RunConfig:
    cfg = RunConfig()
    cfg.data.batch_size, cfg.data.masks_per_image = 8, 16
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

    def described(cfg: RunConfig, _: Any) -> OutOfMemoryError:
        text = "freed" if held[0]() is None else "still held"
        return OutOfMemoryError(text, memory=measure(), ranks=1)

    monkeypatch.setattr(memory, "out_of_memory", described)
    with pytest.raises(UserError, match=r"^freed"), memory_advice(config()):
        step()


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_advice(config()):
        raise RuntimeError("shapes")
    with pytest.raises(OutOfMemoryError) as ended, memory_advice(config()):
        torch.empty(2**50)
    assert str(ended.value).startswith("out of memory on rank 0")
    assert "with 8 image(s) of 16 masks" in str(ended.value)
    assert (ended.value.ranks, ended.value.memory.on_gpu) == (1, False)
    with pytest.raises(UserError, match=r"data\.workers"), memory_advice(config()):
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
