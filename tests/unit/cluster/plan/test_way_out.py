"""Settings that are offered when memory ended: by plan's count, and scaled by what was in use."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import forked
import pytest

from sam_train.cluster.plan import memory as counting
from sam_train.cluster.plan import way_out as module
from sam_train.cluster.plan.memory import GIB, Simulator
from sam_train.cluster.plan.settings import setting_of
from sam_train.cluster.plan.way_out import ask, way_out
from sam_train.errors import MemoryInUse, OutOfMemoryError
from sam_train.settings.compose import load_config
from sam_train.settings.run import RunConfig

SETTINGS = [
    *("model=vit_t", "model.image_size=256", "data.batch_size=4", "data.masks_per_image=4"),
    *("model.depth=2", "model.global_blocks=[1]", "prompts.points=1", "prompts.mask_only=0"),
    *("trainer.devices=1", "trainer.precision=bf16-mixed", "model.checkpoint_blocks=full"),
]


@pytest.fixture(scope="module")
def cfg() -> RunConfig:
    return load_config(SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    """Let all simulators of this process count each piece of the one model once."""
    kept = {name: {} for name in ("_encoders", "_rounds", "_states", "_batches")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "Simulator", partial(Simulator, **kept))
        yield


@pytest.fixture(scope="module")
def counted(cfg: RunConfig) -> int:
    return counting.Simulator(cfg=cfg, ranks=1).memory(setting_of(cfg)).tensors


def test_what_is_offered_is_plans_own_count(cfg: RunConfig, counted: int) -> None:
    memory = MemoryInUse(used=counted, total=1.02 * counted, on_gpu=True)
    found = re.fullmatch(
        r"would fit, as plan counts: trainer\.accumulate=2 \(about (\S+) GiB\)",
        way_out(cfg, memory, ranks=1),
    )
    assert found is not None
    half = replace(setting_of(cfg), turns=2, images=2)
    tensors = counting.Simulator(cfg=cfg, ranks=1).memory(half).tensors
    # No weights were in use before; what the allocator loses is the least share.
    assert float(found[1]) == pytest.approx(tensors * (1 + cfg.plan.gaps) / GIB, rel=5e-3)


def test_what_no_tensor_holds_is_scaled_in(cfg: RunConfig, counted: int) -> None:
    """As the program itself on a CPU, which takes more than the tensors here."""
    program = MemoryInUse(used=9e9 + counted, base=9e9, total=9e9 + 0.9 * counted, on_gpu=True)
    assert "would fit, as plan counts: trainer.accumulate=" in way_out(cfg, program, ranks=1)
    nothing = MemoryInUse(used=counted, total=1000, on_gpu=True)
    assert way_out(cfg, nothing, ranks=1).startswith("no other batch")


def test_a_child_process_counts(counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryInUse(used=counted, total=1.02 * counted, on_gpu=True)
    error = OutOfMemoryError("out of memory", memory=memory, ranks=1)
    monkeypatch.setattr(sys, "executable", forked.python())
    assert ask(error, SETTINGS).startswith("would fit, as plan counts: trainer.accumulate=2 ")
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    assert "python -m sam_train plan" in ask(error, SETTINGS)
