"""The weights, gradients, moments and buffers of a rank between steps, under each strategy.

The parameters' shapes decide them, and the way in which each strategy divides these; see
`train/parallel/strategies.py` and `train/parallel/zero.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from sam_train.errors import UserError
from sam_train.model import Sam, build_from_config
from sam_train.runtime.devices import LOW_PRECISIONS
from sam_train.settings.run import RunConfig
from sam_train.train.config import deepspeed_config
from sam_train.train.optim import moments_of, roles_of
from sam_train.train.parallel.prepare import split, tune_as

FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class States:
    """Bytes of one rank, of the GPU but for `host`."""

    weights: int
    gradients: int
    moments: int
    """The optimizer's state, the average of `optim.ema`, and the float32 copy of weights that
    DeepSpeed updates."""
    buffers: int
    """Tensors on their way to other ranks or from them."""
    host: int = 0
    """Bytes of CPU memory."""
    sent: int = 0
    """Bytes that a rank sends per update, and receives."""
    sends_gradients: bool = False
    """True where gradients of the encoder do not stay until the update."""
    low_blocks: bool = False
    """True where the encoder units' weights come as bfloat16, so that autocast copies none."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers, not bytes."""

    weights: int
    trained: int
    moments: int
    """AdamW keeps two for each trained weight, Muon one for those that it updates."""
    averaged: int
    """Weights with a moving average; 0 without `optim.ema`."""


def whole_model(cfg: RunConfig) -> Sam:
    """Build the model without memory (on torch's meta device), frozen as `optim` says.

    Raises:
        UserError: the encoder has fewer blocks.
    """
    with torch.device("meta"):
        sam = build_from_config(cfg.model)
    tune_as(sam, cfg)
    return sam


def count(cfg: RunConfig, sam: Sam) -> Counts:
    """Count the share that this rank holds of a model whose parameters may be split."""
    weights = trained = moments = 0
    roles = roles_of(sam)
    for name, parameter in sam.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        own = local.numel()
        weights += own
        if parameter.requires_grad:
            trained += own
            moments += own * moments_of(roles[name], cfg=cfg.optim)
    averaged = trained if cfg.optim.ema else 0
    return Counts(weights=weights, trained=trained, moments=moments, averaged=averaged)


def states_of(cfg: RunConfig, *, ranks: int) -> States:
    """Count the bytes of rank 0, which under fsdp2 and deepspeed is the fullest.

    Raises:
        UserError: DeepSpeed's settings cannot be read, or have another stage than 1, 2 or 3.
    """
    sam = whole_model(cfg)
    if cfg.trainer.strategy == "fsdp2":
        return _fsdp2(cfg, sam, ranks=ranks)
    counts = count(cfg, sam)
    if cfg.trainer.strategy == "deepspeed":
        return _deepspeed(cfg, sam, counts, ranks=ranks)
    alone = ranks == 1
    return States(
        weights=FLOAT * counts.weights,
        gradients=FLOAT * counts.trained,
        moments=FLOAT * (counts.moments + counts.averaged),
        # DDP's buckets are as large as all gradients together.
        buffers=0 if alone else FLOAT * counts.trained,
        # A ring all-reduce sends each value twice: once to be summed, once as the sum.
        sent=0 if alone else 2 * FLOAT * counts.trained * (ranks - 1) // ranks,
    )


def _fsdp2(cfg: RunConfig, sam: Sam, *, ranks: int) -> States:
    encoder = sam.image_encoder
    units = [sum(p.numel() for p in unit.parameters()) for unit in encoder.units()]
    root = sum(p.numel() for p in encoder.parameters()) - sum(units)
    rest = sum(p.numel() for p in sam.parameters()) - root - sum(units)
    # Frozen weights are gathered like others, but have no gradients to send.
    trained = [_trained(unit) for unit in encoder.units()]
    trained_root = _trained(encoder) - sum(trained)
    with fake_ranks(ranks):
        mesh = init_device_mesh("cpu", (ranks,))
        split(sam, mesh, precision=cfg.trainer.precision)
        counts = count(cfg, sam)
    width = 2 if cfg.trainer.precision in LOW_PRECISIONS else FLOAT
    largest = max(units, default=0)
    # Two units are whole at a time, one at work and the next on its way. After the backward pass
    # of one come its gradients, and the float32 copy of them that is averaged.
    gathered = 2 * width * largest + (width + FLOAT) * max(trained, default=0) + FLOAT * root
    # Units are gathered for forward and for backward, and their gradients scattered. Parameters
    # outside the encoder are whole on all ranks, and averaged as under DDP.
    passes = 2 if _trained(encoder) else 1
    volume = passes * width * sum(units) + FLOAT * (sum(trained) + root + trained_root)
    volume += 2 * FLOAT * rest
    return States(
        weights=FLOAT * counts.weights,
        gradients=FLOAT * counts.trained,
        moments=FLOAT * (counts.moments + counts.averaged),
        buffers=gathered + FLOAT * rest,
        sent=volume * (ranks - 1) // ranks,
        sends_gradients=True,
        low_blocks=width == 2,
    )


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _deepspeed(cfg: RunConfig, sam: Sam, counts: Counts, *, ranks: int) -> States:
    settings = deepspeed_config(
        cfg.trainer.deepspeed, offload=cfg.trainer.offload, clip=cfg.optim.grad_clip
    )
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    if stage not in (1, 2, 3):
        raise UserError(f"trainer.deepspeed={cfg.trainer.deepspeed}: plan knows ZeRO 1, 2 and 3")
    part = -(-counts.trained // ranks)
    # AdamW's two moments, and the float32 weights that it updates.
    updated = FLOAT * (part + -(-counts.moments // ranks))
    bucket = FLOAT * min(int(zero.get("reduce_bucket_size", 5e8)), counts.trained)
    buckets = bucket * (2 if zero.get("overlap_comm") else 1)
    on_host = "device" in zero.get("offload_optimizer", {})
    weights, gathered = FLOAT * counts.weights, 0
    if stage == 3:
        decoder = sum(p.numel() for p in sam.parameters()) - sum(
            p.numel() for p in sam.image_encoder.parameters()
        )
        split_up = counts.weights - decoder
        weights = FLOAT * (-(-split_up // ranks) + decoder)
        # DeepSpeed drops gathered weights only beyond this many.
        gathered = FLOAT * min(int(zero.get("stage3_max_live_parameters", 1e9)), split_up)
    return States(
        weights=weights,
        gradients=FLOAT * (counts.trained if stage == 1 else part),
        moments=FLOAT * counts.averaged + (0 if on_host else updated),
        buffers=buckets + gathered,
        host=updated + FLOAT * part if on_host else 0,
        sent=(2 if stage < 3 else 3) * FLOAT * counts.trained * (ranks - 1) // ranks,
        sends_gradients=stage > 1,
    )


@contextmanager
def fake_ranks(number: int) -> Iterator[None]:
    """Let this process act as the first of `number` ranks; tensors that it sends go nowhere.

    Raises:
        UserError: it is one of several already.
    """
    if dist.is_initialized():
        raise UserError("plan counts in one process: start it without torchrun or srun")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=number)
    try:
        yield
    finally:
        dist.destroy_process_group()
