"""The figures of a run by its settings: parameters, FLOPs, memory, time, data, checkpoints."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

from sam_train.cluster.plan.costs import EncoderCost, RoundsCost, modules_of
from sam_train.cluster.plan.gpus import Gpu, gpu_of
from sam_train.cluster.plan.ledger import Work
from sam_train.cluster.plan.memory import GIB, Memory, Simulator
from sam_train.cluster.plan.settings import Setting, devices_of, setting_of
from sam_train.cluster.plan.states import FLOAT, States, count, whole_model
from sam_train.model import Sam
from sam_train.settings.run import RunConfig
from sam_train.train.objectives import At
from sam_train.train.objectives.base import build_objective

SAMPLES_PER_CORE = {"exact": 43.0, "scaled": 75.0}
"""Samples that one core prepares in a second, see docs/benchmarks/data.md."""
RECOMPUTE = ("none", "selective", "full")
_UPDATE = 7
"""Passes over the float32 weights: gradient, weight and two moments are read, three written."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of the whole run."""

    flops: float
    """FLOPs per image, recomputation included."""
    at_mfu: float
    """Images a second at `plan.mfu`."""
    at_most: float
    """Images a second if operations ran one after the other. Each takes the longer of its
    arithmetic at the card's peak and its tensors' way through the card's memory."""
    images: float
    """The lower of the two, with which times are counted."""
    hours: float
    gpu_hours: float
    sent_mb: float
    """Megabytes that a GPU sends per update, and receives."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The demand on the data path."""

    read_mbs: float
    """Megabytes a second that a node reads."""
    cores: float
    """CPU cores that a node needs to prepare samples."""
    workers: int
    """`data.workers` for those cores."""
    samples_per_core: float


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The cost of saving."""

    size: int
    """Bytes of one checkpoint."""
    files: int
    """Maximum of checkpoints kept, without those that are kept for good."""
    seconds: float
    """Time to write one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The figures that are printed and go into plan.json."""

    setting: Setting
    nodes: int
    devices: int
    gpu: Gpu
    parameters: dict[str, int]
    flops: dict[str, float]
    """FLOPs of one image, in a micro-batch as set: by module of the forward pass, then backward
    and recomputed."""
    rounds: int
    memory: dict[str, Memory]
    """Bytes of tensors by `model.checkpoint_blocks`."""
    room: int
    """Bytes of a GPU."""
    needed: dict[str, int]
    """Bytes by `model.checkpoint_blocks`, with the reserve that no tensor holds."""
    speed: Speed
    feed: Feed
    checkpoints: Checkpoints

    @property
    def fits(self) -> bool:
        """True where the settings fit as they are."""
        return self.needed[self.setting.recompute] <= self.room


def make_plan(cfg: RunConfig, simulator: Simulator) -> Plan:
    """Count everything for `cfg`; `config.PlanConfig` has the assumptions.

    Raises:
        UserError: settings that do not go together.
    """
    setting, plan = setting_of(cfg), cfg.plan
    gpu, devices = gpu_of(plan.gpu), devices_of(cfg)
    states = simulator.states(setting)
    memory = {mode: simulator.memory(replace(setting, recompute=mode)) for mode in RECOMPUTE}
    encoder, rounds = simulator.encoder(setting, states), simulator.rounds(setting)
    sam = whole_model(cfg)
    speed = speed_of(cfg, setting, states, encoder, rounds, ranks=simulator.ranks)
    return Plan(
        setting=setting,
        nodes=cfg.trainer.num_nodes,
        devices=devices,
        gpu=gpu,
        parameters=parameters_by_module(sam),
        flops=flops_by_module(encoder, rounds, images=setting.images),
        rounds=build_objective(cfg).number(At(seed=cfg.seed, step=0, progress=1.0)),
        memory=memory,
        room=round((plan.memory_gib or gpu.memory_gib) * GIB),
        needed={mode: of_mode.needed(plan) for mode, of_mode in memory.items()},
        speed=speed,
        feed=feed_of(cfg, speed, devices=devices),
        checkpoints=checkpoints_of(cfg, sam),
    )


def parameters_by_module(sam: Sam) -> dict[str, int]:
    """Count parameters, each for the innermost part that has it."""
    # An inner part comes behind its outer one, so its name is the last that is written.
    owner = {
        id(parameter): name
        for name, members in modules_of(sam).items()
        for module in members
        for parameter in module.parameters()
    }
    counts: Counter[str] = Counter()
    for parameter in sam.parameters():
        counts[owner.get(id(parameter), "encoder: position table")] += parameter.numel()
    return dict(counts)


def flops_by_module(encoder: EncoderCost, rounds: RoundsCost, *, images: int) -> dict[str, float]:
    """Count the FLOPs of one image's share of a micro-batch."""
    by_part = {
        **encoder.flops.forward,
        "encoder: backward": encoder.flops.backward,
        "encoder: recomputed": encoder.flops.recomputed,
        **rounds.flops.forward,
        "rounds: backward": rounds.flops.backward,
    }
    return {name: flops / images for name, flops in by_part.items() if flops}


def speed_of(
    cfg: RunConfig,
    setting: Setting,
    states: States,
    encoder: EncoderCost,
    rounds: RoundsCost,
    *,
    ranks: int,
) -> Speed:
    """Estimate images a second and the hours of `trainer.max_steps`.

    Sending is assumed to hide behind computing.
    """
    gpu = gpu_of(cfg.plan.gpu)
    full = gpu.tf32 if cfg.trainer.matmul_precision != "highest" else gpu.fp32
    flops = (encoder.flops.total + rounds.flops.total) / setting.images
    peak = gpu.bf16 if setting.low else full
    at_mfu = ranks * peak * 1e12 * cfg.plan.mfu / flops
    micro_batch = _seconds(encoder.work + rounds.work, gpu, full=full)
    # AdamW computes next to nothing: an update is as long as its traffic.
    update = _UPDATE * states.gradients / (gpu.bandwidth * 1e12)
    at_most = ranks * setting.images / (micro_batch + update / setting.turns)
    images = min(at_mfu, at_most)
    hours = cfg.trainer.max_steps * cfg.data.batch_size / images / 3600
    return Speed(
        flops=flops,
        at_mfu=at_mfu,
        at_most=at_most,
        images=images,
        hours=hours,
        gpu_hours=hours * ranks,
        sent_mb=states.sent / 1e6,
    )


def _seconds(work: Counter[Work], gpu: Gpu, *, full: float) -> float:
    # The roofline of each operation: arithmetic and traffic overlap, so the slower one counts.
    return sum(
        times
        * max(
            one.flops / (1e12 * (gpu.bf16 if one.low else full)),
            one.traffic / (1e12 * gpu.bandwidth),
        )
        for one, times in work.items()
    )


def feed_of(cfg: RunConfig, speed: Speed, *, devices: int) -> Feed:
    """Estimate the data path for the photos of one node."""
    images = speed.images / cfg.trainer.num_nodes
    per_core = cfg.plan.samples_per_core or SAMPLES_PER_CORE[cfg.data.jpeg]
    cores = images / per_core
    return Feed(
        read_mbs=images * cfg.plan.sample_mb,
        cores=cores,
        workers=max(1, math.ceil(cores / devices)),
        samples_per_core=per_core,
    )


def checkpoints_of(cfg: RunConfig, sam: Sam) -> Checkpoints:
    """Estimate the cost of saving: whole float32 weights and moments, whatever the strategy."""
    counts = count(cfg, sam)
    size = FLOAT * (counts.weights + counts.moments + counts.averaged)
    return Checkpoints(
        size=size,
        files=cfg.checkpoint.keep_last + cfg.checkpoint.keep_best,
        seconds=size / 1e6 / cfg.plan.disk_mbs,
    )
