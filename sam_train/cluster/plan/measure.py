"""A real step's memory and FLOPs on this CPU, by torch's own counters, beside the plan's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from sam_train.cluster.plan.costs import autocast
from sam_train.cluster.plan.fake import StepModule, empty_batch
from sam_train.cluster.plan.memory import Simulator
from sam_train.cluster.plan.settings import Setting
from sam_train.cluster.plan.states import states_of
from sam_train.model import build_from_config
from sam_train.settings.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A figure, counted and measured."""

    planned: float
    measured: float

    @property
    def ratio(self) -> float:
        """Planned over measured."""
        return self.planned / self.measured


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A step of one process."""

    memory: Pair
    """Peak bytes of the first step's tensors, weights and batch included. No moments or gradients
    exist before it."""
    flops: Pair


def compare(cfg: RunConfig, setting: Setting) -> Comparison:
    """Take one step of `setting` on fake tensors and one on real ones."""
    cfg = setting.applied_to(cfg)
    simulator = Simulator(cfg=cfg, ranks=1, as_gpu=False)
    states = states_of(cfg, ranks=1)
    encoder, rounds = simulator.encoder(setting, states), simulator.rounds(setting)
    module = StepModule(cfg, sam=build_from_config(cfg.model))
    batch = empty_batch(module, images=setting.images, masks=setting.masks)
    held = states.weights + simulator.batch_bytes(setting)

    def step() -> None:
        module.zero_grad()
        with autocast(module):
            loss = module.rounds_step(module.encode(batch), batch)
        torch.autograd.backward(loss)

    counter = FlopCounterMode(display=False)
    # torch's way to tell modules apart fails in a backward pass inside a forward pass.
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        step()
    module.zero_grad()
    return Comparison(
        memory=Pair(
            planned=held
            + max(
                encoder.forward_peak,
                encoder.saved + rounds.peak,
                encoder.backward_peak + rounds.at_end,
            ),
            measured=held + peak_of(step),
        ),
        flops=Pair(
            planned=encoder.flops.total + rounds.flops.total,
            measured=counter.get_total_flops(),
        ),
    )


class _NoModules(nullcontext[None]):
    parents = frozenset({"Global"})


def peak_of(step: Callable[[], None]) -> int:
    """Measure the most bytes that torch's CPU allocator gave out during `step`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
