"""AdamW with layer-wise decay, warm-up and a schedule (paper A, "Training recipe"); Muon for small
models trained from scratch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sam_train.errors import UserError
from sam_train.train.muon import MuonWithAdamW
from sam_train.train.optim_config import OptimConfig


def layer_of(name: str, depth: int) -> int:
    """The layer that a parameter of `Sam` counts for: 0 for the patch and position tables, i + 1
    for encoder block i, depth + 1 for everything after the blocks."""
    if name.startswith(("image_encoder.patch_embed", "image_encoder.pos_embed")):
        return 0
    if match := re.match(r"image_encoder\.blocks\.(\d+)\.", name):
        return int(match.group(1)) + 1
    return depth + 1


def freeze(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, blocks: int, depth: int
) -> None:
    """Take the first `blocks` encoder blocks, and what stands before them, out of training.

    Raises:
        UserError: the encoder has fewer blocks.
    """
    if not 0 <= blocks <= depth:
        raise UserError(f"optim.frozen_blocks={blocks} must be from 0 to {depth}, the ViT's depth")
    for name, parameter in named_parameters:
        if blocks and layer_of(name, depth) <= blocks:
            parameter.requires_grad_(False)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not on norms and biases (one dimension) or position tables."""
    position_table = name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w"))
    return parameter.ndim > 1 and not position_table


def orthogonalises(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon updates it: the matrices that map features to features. Embeddings, position
    tables and what meets pixels stay with AdamW, as Muon's author advises."""
    inside = re.search(r"(image_encoder\.blocks|transformer|_mlps|prediction_head)\.", name)
    return parameter.ndim == 2 and inside is not None and decays(name, parameter)


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, cfg: OptimConfig, depth: int
) -> list[dict[str, Any]]:
    """Optimizer groups, one per (layer, decayed or not, Muon's or AdamW's, the encoder's or not),
    each parameter in exactly one. Muon's have `momentum`. The encoder's are apart from the others
    because fsdp2 splits them, and fused kernels take no mixture.

    Args:
        named_parameters: of a `Sam`; frozen ones are left out.
        cfg: learning rate, decay.
        depth: number of encoder blocks.
    """
    groups: dict[tuple[int, bool, bool, bool], dict[str, Any]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        layer, decay = layer_of(name, depth), decays(name, parameter)
        muon = cfg.name == "muon" and orthogonalises(name, parameter)
        outside = not name.startswith("image_encoder.")
        group = groups.setdefault(
            (layer, decay, muon, outside),
            {
                "params": [],
                "lr": (cfg.muon_lr if muon else cfg.lr) * cfg.layer_decay ** (depth + 1 - layer),
                "weight_decay": cfg.weight_decay if decay else 0.0,
                "name": f"layer {layer}{'' if decay else ', no decay'}{', muon' if muon else ''}",
            }
            | ({"momentum": cfg.muon_momentum} if muon else {}),
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def learning_rate_factor(cfg: OptimConfig, max_steps: int) -> Callable[[int], float]:
    """What `lr` is multiplied by before update number `step` (from 0)."""

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


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    cfg: OptimConfig,
    depth: int,
    max_steps: int,
) -> tuple[Optimizer, LambdaLR]:
    """The optimizer over `parameter_groups` and its schedule, stepped once per update."""
    beta1, beta2 = cfg.betas
    groups = parameter_groups(named_parameters, cfg=cfg, depth=depth)
    optimizer: Optimizer
    if cfg.name == "muon":
        optimizer = MuonWithAdamW(groups, betas=(beta1, beta2))
    else:
        optimizer = AdamW(groups, lr=cfg.lr, betas=(beta1, beta2), fused=True)
    return optimizer, LambdaLR(optimizer, learning_rate_factor(cfg, max_steps))
