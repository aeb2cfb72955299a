"""AdamW with layer-wise decay, warm-up and a schedule (paper A, "Training recipe"); Muon for small
models trained from scratch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sam_train.errors import UserError
from sam_train.model import Sam
from sam_train.model.adapters import TUNINGS
from sam_train.train.muon import MuonWithAdamW

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("step", "cosine", "linear")


@dataclass
class OptimConfig:
    """Defaults are the paper's ViT-H (A, "Training recipe") unless a line says otherwise."""

    name: str = "adamw"
    """adamw: the paper's. muon: Muon for the matrices inside the encoder's blocks and the decoder,
    AdamW for the rest; for training from scratch on few steps (`docs/log.md` has the comparison).
    """
    lr: float = 8e-4
    """Learning rate after warm-up, of the parameters that stand last (neck, prompts, decoder)."""
    muon_lr: float = 1e-2
    """Like `lr`, for the matrices that Muon updates. An update's root mean square is 0.2 times the
    rate, about AdamW's, whatever the matrix's shape."""
    muon_momentum: float = 0.95
    """Muon's decay of the gradient's moving sum (its author's)."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Adam's decay of the gradient's first and second moments."""
    weight_decay: float = 0.1
    """Decoupled decay; never on norms, biases and position tables."""
    layer_decay: float = 0.8
    """Each encoder block learns at this fraction of the rate of the block after it."""
    tune: str = "all"
    """Part of the image encoder that is trained: all (the paper's); norm_bias: its norms and biases
    alone, 0.1 % of vit_b, for fine-tuning with little memory for the optimizer. Prompt encoder and
    decoder are trained either way."""
    frozen_blocks: int = 0
    """The patch and position tables and this many first encoder blocks keep their weights; 0
    freezes none, as the paper. For fine-tuning on few photos: it also spares their backward
    pass, two thirds of their time."""
    warmup_steps: int = 250
    """The rate rises linearly from 0 to `lr` over this many steps."""
    schedule: str = "step"
    """step: the paper's; cosine, linear: from `lr` to `final_lr_fraction * lr` at max_steps, for
    small runs, where a long tail at a small rate is worth more than a long stretch at a large."""
    milestones: list[float] = field(default_factory=lambda: [60_000 / 90_000, 86_666 / 90_000])
    """Fractions of max_steps at which `step` divides the rate (60,000 and 86,666 of 90,000)."""
    decay_factor: float = 0.1
    """Factor of the rate at each milestone."""
    final_lr_fraction: float = 0.0
    """Last rate of cosine and linear, as a fraction of `lr`."""
    grad_clip: float = 0.0
    """Largest gradient norm; 0 leaves gradients alone (the paper names no clipping)."""
    ema: float = 0.0
    """Above 0, for instance 0.999: an average of the weights is measured, validated and exported.
    It keeps this much of itself at each step (less in the first hundreds). Training itself does
    not see it. The paper names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The treatment of one parameter by the optimizer."""

    layer: int
    """0 in front of the encoder's units, i + 1 in unit i, units + 1 for everything behind them."""
    decays: bool
    """Weight decay applies: not to norms and biases (one dimension) or position tables."""
    orthogonalises: bool
    """Muon updates it: one of the matrices that map features to features. Embeddings, position
    tables and the layers that meet pixels stay with AdamW, as Muon's author advises."""


_FEATURES = re.compile(r"(transformer|_mlps|prediction_head)\.")
"""The decoder's parts whose matrices map features to features."""


def roles_of(sam: Sam) -> dict[str, Role]:
    """Give each parameter of `sam` its role, by name, in the order of `named_parameters`."""
    encoder = sam.image_encoder
    units = encoder.units()
    layers = {id(parameter): 0 for parameter in encoder.stem()}
    for i, unit in enumerate(units, start=1):
        layers |= {id(parameter): i for parameter in unit.parameters()}
    last = len(units) + 1
    tables = {id(parameter) for parameter in encoder.position_tables()}
    roles = {}
    for name, parameter in sam.named_parameters():
        layer = layers.get(id(parameter), last)
        decays = parameter.ndim > 1 and id(parameter) not in tables
        inside = 0 < layer < last or _FEATURES.search(name) is not None
        roles[name] = Role(
            layer=layer, decays=decays, orthogonalises=decays and inside and parameter.ndim == 2
        )
    return roles


def parameter_groups(sam: Sam, *, cfg: OptimConfig) -> list[dict[str, Any]]:
    """Put each trained parameter into one optimizer group.

    There is a group for each (layer, decayed or not, Muon's or AdamW's, the encoder's or not).
    Muon's have `momentum`. The encoder's are apart from the others because fsdp2 splits them, and
    fused kernels take no mixture.
    """
    roles = roles_of(sam)
    last = len(sam.image_encoder.units()) + 1
    groups: dict[tuple[int, bool, bool, bool], dict[str, Any]] = {}
    for name, parameter in sam.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decay = roles[name].layer, roles[name].decays
        muon = cfg.name == "muon" and roles[name].orthogonalises
        outside = not name.startswith("image_encoder.")
        group = groups.setdefault(
            (layer, decay, muon, outside),
            {
                "params": [],
                "lr": (cfg.muon_lr if muon else cfg.lr) * cfg.layer_decay ** (last - layer),
                "weight_decay": cfg.weight_decay if decay else 0.0,
                "name": f"layer {layer}{'' if decay else ', no decay'}{', muon' if muon else ''}",
            }
            | ({"momentum": cfg.muon_momentum} if muon else {}),
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def check(cfg: OptimConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    if cfg.name not in OPTIMIZERS:
        raise UserError(f"optim.name={cfg.name} is unknown: use {', '.join(OPTIMIZERS)}")
    TUNINGS[cfg.tune]
    if not 0 <= cfg.muon_momentum < 1:
        raise UserError(f"optim.muon_momentum={cfg.muon_momentum} must be from 0 to below 1")
    if cfg.schedule not in SCHEDULES:
        raise UserError(f"optim.schedule={cfg.schedule} is unknown: use {', '.join(SCHEDULES)}")
    if len(cfg.betas) != 2 or not all(0 <= beta < 1 for beta in cfg.betas):
        raise UserError(f"optim.betas={cfg.betas} must be two numbers from 0 to below 1")
    if any(not 0 < m <= 1 for m in cfg.milestones):
        raise UserError(f"optim.milestones={cfg.milestones} are fractions of max_steps, 0 to 1")
    if not 0 <= cfg.ema < 1:
        raise UserError(f"optim.ema={cfg.ema} must be from 0 to below 1")
    for name in ("lr", "muon_lr", "layer_decay", "decay_factor"):
        if not getattr(cfg, name) > 0:
            raise UserError(f"optim.{name}={getattr(cfg, name)} must be above 0")
    for name in ("weight_decay", "warmup_steps", "final_lr_fraction", "grad_clip"):
        if getattr(cfg, name) < 0:
            raise UserError(f"optim.{name}={getattr(cfg, name)} must not be negative")


def learning_rate_factor(cfg: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """Return the function from an update's number (from 0) to the factor of `lr`."""

    def factor(step: int) -> float:
        # (step + 1): the first update already moves, so no step is spent at a rate of zero.
        warm = min(1.0, (step + 1) / cfg.warmup_steps) if cfg.warmup_steps else 1.0
        if cfg.schedule == "step":
            passed = sum(step >= round(m * max_steps) for m in cfg.milestones)
            return warm * cfg.decay_factor**passed
        progress = (step - cfg.warmup_steps) / max(1, max_steps - cfg.warmup_steps)
        progress = min(1.0, max(0.0, progress))
        left = (
            0.5 * (1 + math.cos(math.pi * progress)) if cfg.schedule == "cosine" else 1 - progress
        )
        return warm * (cfg.final_lr_fraction + (1 - cfg.final_lr_fraction) * left)

    return factor


def build_optimizer(sam: Sam, *, cfg: OptimConfig, max_steps: int) -> tuple[Optimizer, LambdaLR]:
    """Build the optimizer over `parameter_groups` and its schedule, stepped once per update."""
    beta1, beta2 = cfg.betas
    groups = parameter_groups(sam, cfg=cfg)
    optimizer: Optimizer
    if cfg.name == "muon":
        optimizer = MuonWithAdamW(groups, betas=(beta1, beta2))
    else:
        optimizer = AdamW(groups, lr=cfg.lr, betas=(beta1, beta2), fused=True)
    return optimizer, LambdaLR(optimizer, learning_rate_factor(cfg, max_steps))
