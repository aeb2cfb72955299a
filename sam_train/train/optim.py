"""AdamW with layer-wise decay and schedule (paper A, "Training recipe"); Muon for small models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sam_train.model import Sam
from sam_train.train.muon import MuonWithAdamW
from sam_train.train.optim_config import OptimConfig


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
    # By identity: encoders differ in their names, but each knows its own parameters.
    layers = {id(parameter): 0 for parameter in encoder.stem()}
    for i, unit in enumerate(units, start=1):
        layers |= {id(parameter): i for parameter in unit.parameters()}
    last = len(units) + 1
    tables = {id(parameter) for parameter in encoder.position_tables()}
    roles = {}
    for name, parameter in sam.named_parameters():
        layer = layers.get(id(parameter), last)
        # Norms and biases have one dimension; position tables have more, but are no products.
        decays = parameter.ndim > 1 and id(parameter) not in tables
        inside = 0 < layer < last or _FEATURES.search(name) is not None
        # Of the two factors of an adapter neither maps features to features.
        inside = inside and ".lora_" not in name
        roles[name] = Role(
            layer=layer, decays=decays, orthogonalises=decays and inside and parameter.ndim == 2
        )
    return roles


def moments_of(role: Role, *, cfg: OptimConfig) -> int:
    """Count the numbers that the optimizer keeps for each weight of that role."""
    # AdamW the mean and the square of gradients, Muon their sum alone.
    return 1 if cfg.name == "muon" and role.orthogonalises else 2


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
    # Sorted, so that a checkpoint's groups mean the same whatever the model's order of names.
    return [groups[key] for key in sorted(groups)]


def learning_rate_factor(cfg: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """Return the function from an update's number (from 0) to the factor of `lr`."""

    def factor(step: int) -> float:
        # (step + 1): the first update already moves, so no step is spent at a rate of zero.
        warm = min(1.0, (step + 1) / cfg.warmup_steps) if cfg.warmup_steps else 1.0
        if cfg.schedule == "step":
            # round: the paper's 60,000 of 90,000 is a fraction that a float may miss by a hair.
            passed = sum(step >= round(m * max_steps) for m in cfg.milestones)
            return warm * cfg.decay_factor**passed
        progress = (step - cfg.warmup_steps) / max(1, max_steps - cfg.warmup_steps)
        # Below 0 during warm-up, where the other factor rules.
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
        # fused: one kernel a group, and a flag on the device by which an update is skipped.
        optimizer = AdamW(groups, lr=cfg.lr, betas=(beta1, beta2), fused=True)
    return optimizer, LambdaLR(optimizer, learning_rate_factor(cfg, max_steps))
