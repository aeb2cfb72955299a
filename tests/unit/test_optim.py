"""Parameter groups, learning rates and schedules against the paper's numbers."""

from __future__ import annotations

import math

import pytest
import torch

from sam_train.errors import UserError
from sam_train.model import Sam, build_sam
from sam_train.optim import (
    OptimConfig,
    build_optimizer,
    check,
    freeze,
    learning_rate_factor,
    parameter_groups,
)


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam("vit_t", image_size=64)


@pytest.fixture(scope="module")
def depth(sam: Sam) -> int:
    return len(sam.image_encoder.blocks)


def test_every_parameter_is_in_one_group(sam: Sam, depth: int) -> None:
    groups = parameter_groups(sam.named_parameters(), cfg=OptimConfig(), depth=depth)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in sam.parameters())


def test_layer_decay_counts_from_the_end(sam: Sam, depth: int) -> None:
    cfg = OptimConfig(lr=1.0, layer_decay=0.5)
    groups = parameter_groups(sam.named_parameters(), cfg=cfg, depth=depth)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(sam.named_parameters())
    expected = {
        "image_encoder.patch_embed.proj.weight": 0.5 ** (depth + 1),
        "image_encoder.pos_embed": 0.5 ** (depth + 1),
        "image_encoder.blocks.0.attn.qkv.weight": 0.5**depth,
        f"image_encoder.blocks.{depth - 1}.mlp.lin1.bias": 0.5,
        "image_encoder.neck.0.weight": 1.0,
        "prompt_encoder.no_mask_embed.weight": 1.0,
        "mask_decoder.iou_token.weight": 1.0,
    }
    assert {name: rate[id(named[name])] for name in expected} == expected


def test_no_decay_on_norms_biases_and_position_tables(sam: Sam, depth: int) -> None:
    groups = parameter_groups(sam.named_parameters(), cfg=OptimConfig(), depth=depth)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    free = {name for name, p in sam.named_parameters() if decay[id(p)] == 0}
    tables = {n for n, _ in sam.named_parameters() if "rel_pos" in n or n.endswith("pos_embed")}
    assert tables
    norms = {
        f"{prefix}.{name}"
        for prefix, module in sam.named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }
    assert norms
    biases = {name for name, _ in sam.named_parameters() if name.endswith("bias")}
    assert free == norms | biases | tables
    assert {decay[id(p)] for n, p in sam.named_parameters() if n not in free} == {0.1}


@pytest.mark.parametrize("steps", [90_000, 180_000])
def test_the_papers_schedule(steps: int) -> None:
    factor = learning_rate_factor(OptimConfig(), steps)
    scale = steps // 90_000
    assert factor(0) == pytest.approx(1 / 250)
    assert factor(124) == pytest.approx(0.5)
    assert factor(249) == factor(250) == factor(60_000 * scale - 1) == 1
    assert factor(60_000 * scale) == pytest.approx(0.1)
    last = round(86_666 / 90_000 * steps)
    assert factor(last - 1) == pytest.approx(0.1)
    assert factor(last) == factor(steps - 1) == pytest.approx(0.01)


@pytest.mark.parametrize(("schedule", "half"), [("linear", 0.55), ("cosine", 0.55)])
def test_rates_that_fall_to_a_fraction(schedule: str, half: float) -> None:
    cfg = OptimConfig(schedule=schedule, warmup_steps=100, final_lr_fraction=0.1)
    factor = learning_rate_factor(cfg, 1100)
    assert [factor(0), factor(99), factor(100)] == pytest.approx([0.01, 1, 1])
    assert factor(600) == pytest.approx(half)
    assert factor(1100) == factor(2000) == pytest.approx(0.1)
    rates = [factor(step) for step in range(100, 1100)]
    assert rates == sorted(rates, reverse=True)


def test_a_quarter_of_the_way_tells_cosine_from_linear() -> None:
    quarter = {
        name: learning_rate_factor(OptimConfig(schedule=name, warmup_steps=0), 400)(100)
        for name in ("linear", "cosine")
    }
    assert quarter["linear"] == pytest.approx(0.75)
    assert quarter["cosine"] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))


def test_the_optimizer_steps_at_the_schedules_rates() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    cfg = OptimConfig(lr=0.5, warmup_steps=2, milestones=[0.75], layer_decay=1.0, weight_decay=0.0)
    optimizer, schedule = build_optimizer(
        [("mask_decoder.x", parameter)], cfg=cfg, depth=1, max_steps=4
    )
    moved = []
    for _ in range(4):
        before = parameter.detach().clone()
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        schedule.step()
        moved.append(float((before - parameter.detach()).mean()))
    # A constant gradient makes Adam's step the learning rate itself.
    assert moved == pytest.approx([0.25, 0.5, 0.5, 0.05], rel=1e-4)


def test_frozen_blocks_are_the_first_ones() -> None:
    sam = build_sam("vit_t", image_size=64)
    depth = len(sam.image_encoder.blocks)
    freeze(sam.named_parameters(), blocks=1, depth=depth)
    frozen = {name for name, p in sam.named_parameters() if not p.requires_grad}
    assert "image_encoder.pos_embed" in frozen
    assert all(
        name.startswith(
            (
                "image_encoder.blocks.0.",
                "image_encoder.pos_embed",
                "image_encoder.patch_embed",
            )
        )
        for name in frozen
    )
    groups = parameter_groups(sam.named_parameters(), cfg=OptimConfig(), depth=depth)
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in sam.parameters() if p.requires_grad}
    with pytest.raises(UserError, match="frozen_blocks=99"):
        freeze(sam.named_parameters(), blocks=99, depth=depth)


def test_check_takes_the_defaults_and_refuses_nonsense() -> None:
    check(OptimConfig())
    with pytest.raises(UserError, match=r"optim\.lr=0"):
        check(OptimConfig(lr=0))
