"""The time of a training step, measured on this machine before a run's length is chosen."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import torch

from sam_train.cluster.plan.costs import autocast
from sam_train.cluster.plan.fake import StepModule, empty_batch
from sam_train.model import build_from_config
from sam_train.model.frozen_part import frozen_part
from sam_train.runtime.devices import find_device, set_arithmetic
from sam_train.settings.run import RunConfig
from sam_train.train.objectives import At
from sam_train.types import Batch

_BESIDE = 1.3
"""Optimizer, reading and reports, beside the forward and backward passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of a step."""

    mean: float
    """The mean over the run, whose first stages have fewer rounds."""
    full: float
    """The time with all rounds."""
    first: float = 0.0
    """Seconds to encode a photo once, where the step finds its embedding in the cache."""


def measure_pace(cfg: RunConfig) -> Pace:
    """Time a step of each stage of the curriculum, on empty photos and masks."""
    set_arithmetic(cfg.trainer)
    device = find_device(cfg.trainer)
    module = StepModule(cfg, sam=build_from_config(cfg.model)).to(device)
    images = max(1, cfg.data.batch_size // cfg.trainer.accumulate)
    batch = empty_batch(module, images=images, masks=cfg.data.masks_per_image)
    ends = [stage.until for stage in cfg.prompts.curriculum]
    stages = list(pairwise([0.0, *(end for end in ends if end < 1.0), 1.0]))
    # The first step also loads libraries and takes memory, so it is not counted.
    _step(module, batch, progress=0.0)
    steps = [_step(module, batch, progress=(low + high) / 2) for low, high in stages]
    part = frozen_part(module.sam) if cfg.embeddings.cache != "off" else None
    # Of an encoder that is kept in part, all is counted: too slow rather than too fast.
    cached = part is not None and part.whole
    seconds = [one.rounds if cached else one.encoder + one.rounds for one in steps]
    mean = sum(one * (high - low) for one, (low, high) in zip(seconds, stages, strict=True))
    factor = _BESIDE * cfg.trainer.accumulate
    return Pace(
        mean=factor * mean,
        full=factor * seconds[-1],
        first=min(one.encoder for one in steps) / images if cached else 0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    encoder: float
    rounds: float
    """The rounds with all backward passes."""


def _step(module: StepModule, batch: Batch, *, progress: float) -> _Times:
    module.at = At(seed=0, step=0, progress=progress)
    module.zero_grad()
    _wait(module)
    started = time.perf_counter()
    with autocast(module):
        embeddings = module.encode(batch)
        _wait(module)
        encoded = time.perf_counter()
        loss = module.rounds_step(embeddings, batch)
    torch.autograd.backward(loss)
    _wait(module)
    return _Times(encoder=encoded - started, rounds=time.perf_counter() - encoded)


def _wait(module: StepModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize()
