"""Parameter groups, learning rates and schedules against the paper's numbers."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import asdict
from typing import Any

import pytest
import torch

from sam_train.errors import UserError
from sam_train.model import Sam, build_sam
from sam_train.model.adapters import tune
from sam_train.train.muon import MuonWithAdamW
from sam_train.train.optim import (
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    roles_of,
)
from sam_train.train.optim_config import OptimConfig, check


@pytest.fixture(scope="module")
def sam() -> Sam:
    return build_sam("vit_t", image_size=64)


@pytest.fixture(scope="module")
def depth(sam: Sam) -> int:
    return len(sam.image_encoder.blocks)


def test_every_parameter_is_in_one_group(sam: Sam, depth: int) -> None:
    groups = parameter_groups(sam, cfg=OptimConfig())
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in sam.parameters())


def test_layer_decay_counts_from_the_end(sam: Sam, depth: int) -> None:
    cfg = OptimConfig(lr=1.0, layer_decay=0.5)
    groups = parameter_groups(sam, cfg=cfg)
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
    groups = parameter_groups(sam, cfg=OptimConfig())
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
    sam = build_sam("vit_t", image_size=64)
    parameter = sam.mask_decoder.iou_token.weight
    cfg = OptimConfig(lr=0.5, warmup_steps=2, milestones=[0.75], layer_decay=1.0, weight_decay=0.0)
    optimizer, schedule = build_optimizer(sam, cfg=cfg, max_steps=4)
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
    tune(sam, "all", frozen_blocks=1)
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
    groups = parameter_groups(sam, cfg=OptimConfig())
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in sam.parameters() if p.requires_grad}
    with pytest.raises(UserError, match="frozen_blocks=99"):
        tune(sam, "all", frozen_blocks=99)


def test_the_defaults_are_the_papers_for_vit_h() -> None:
    """Section A, "Training recipe"; what the paper does not use is off."""
    assert asdict(OptimConfig()) == {
        "name": "adamw",
        "tune": "all",
        "lr": 8e-4,
        "betas": [0.9, 0.999],
        "weight_decay": 0.1,
        "layer_decay": 0.8,
        "warmup_steps": 250,
        "schedule": "step",
        "milestones": [60_000 / 90_000, 86_666 / 90_000],
        "decay_factor": 0.1,  # divided by 10 at each of them
        "frozen_blocks": 0,
        "last_blocks": 2,  # of tune=last_blocks alone
        "final_lr_fraction": 0.0,
        "grad_clip": 0.0,
        "ema": 0.0,
        "muon_lr": 0.01,  # of docs/log.md's comparison
        "muon_momentum": 0.95,  # Muon's author's
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sgd"}, "optim.name=sgd: use one of adamw, muon"),
        ({"schedule": "exp"}, "optim.schedule=exp: use one of step, cosine, linear"),
        ({"muon_momentum": 1.0}, "optim.muon_momentum=1.0 must be from 0 to below 1"),
        ({"muon_momentum": -0.1}, "optim.muon_momentum=-0.1 must be from 0 to below 1"),
        ({"betas": [0.9]}, "optim.betas=[0.9] must be two numbers"),
        ({"betas": [0.9, 0.99, 0.999]}, "must be two numbers from 0 to below 1"),
        ({"betas": [0.9, 1.0]}, "must be two numbers from 0 to below 1"),
        ({"betas": [-0.1, 0.9]}, "must be two numbers from 0 to below 1"),
        ({"milestones": [0.0]}, "optim.milestones=[0.0] are fractions of max_steps"),
        ({"milestones": [0.5, 1.1]}, "are fractions of max_steps"),
        ({"ema": 1.0}, "optim.ema=1.0 must be from 0 to below 1"),
        ({"ema": -0.1}, "optim.ema=-0.1 must be from 0 to below 1"),
        *(
            ({name: value}, f"optim.{name}={value} must be above 0")
            for name in ("lr", "muon_lr", "layer_decay", "decay_factor")
            for value in (0, float("nan"))
        ),
        *(
            ({name: -1}, f"optim.{name}=-1 must not be negative")
            for name in ("weight_decay", "warmup_steps", "final_lr_fraction", "grad_clip")
        ),
    ],
)
def test_check_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(OptimConfig(**options))


def test_check_takes_what_lies_on_a_bound() -> None:
    check(OptimConfig())
    nothing = dict.fromkeys(("weight_decay", "final_lr_fraction", "grad_clip", "ema"), 0.0)
    check(OptimConfig(warmup_steps=0, betas=[0.0, 0.0], muon_momentum=0.0, **nothing))
    check(OptimConfig(name="muon", schedule="cosine", milestones=[1.0], lr=1e-9))
    check(OptimConfig(schedule="linear", milestones=[]))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("image_encoder.patch_embed.proj.bias", 0),
        ("image_encoder.pos_embed", 0),
        ("image_encoder.blocks.0.norm1.weight", 1),
        ("image_encoder.blocks.5.attn.rel_pos_h", 6),
        ("image_encoder.neck.1.weight", 7),
        ("mask_decoder.transformer.layers.0.mlp.lin1.weight", 7),
    ],
)
def test_layers_are_counted_from_the_patches(sam: Sam, name: str, layer: int) -> None:
    assert roles_of(sam)[name].layer == layer


def test_freezing_all_blocks_and_no_block(sam: Sam, depth: int) -> None:
    for blocks in (0, depth):
        model = copy.deepcopy(sam)
        tune(model, "all", frozen_blocks=blocks)
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        tables = ("image_encoder.blocks.", "image_encoder.pos_embed", "image_encoder.patch_embed")
        expected = {name for name, _ in model.named_parameters() if name.startswith(tables)}
        assert frozen == (expected if blocks else set())
    with pytest.raises(UserError, match=f"must be from 0 to {depth}, the encoder's depth"):
        tune(sam, "all", frozen_blocks=-1)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_groups_hold_what_their_names_say(sam: Sam, depth: int, name: str) -> None:
    cfg = OptimConfig(name=name)
    groups = parameter_groups(sam, cfg=cfg)
    names = {id(p): n for n, p in sam.named_parameters()}
    roles = roles_of(sam)
    for group in groups:
        muon = "momentum" in group
        layer = roles[names[id(group["params"][0])]].layer
        assert group["lr"] == (0.01 if muon else 8e-4) * 0.8 ** (depth + 1 - layer)
        decayed = group["weight_decay"] > 0
        parts = [f"layer {layer}", *([] if decayed else ["no decay"]), *(["muon"] if muon else [])]
        assert group["name"] == ", ".join(parts)
        outside = {not names[id(p)].startswith("image_encoder.") for p in group["params"]}
        assert len(outside) == 1
        if muon:
            assert group["momentum"] == 0.95 and name == "muon"
            assert {p.ndim for p in group["params"]} == {2} and decayed
    layers = [group["name"].split(",")[0] for group in groups]
    assert layers == sorted(layers, key=lambda words: int(words.split()[1]))


def test_muon_turns_the_matrices_between_features_alone(sam: Sam) -> None:
    turned = {n for n, role in roles_of(sam).items() if role.orthogonalises}
    modules = dict(sam.named_modules())
    linear = {
        f"{n}.weight"
        for n, m in modules.items()
        if isinstance(m, torch.nn.Linear) and n.startswith(("image_encoder.", "mask_decoder."))
    }
    assert turned == linear


def test_build_gives_each_optimizer_its_rates(sam: Sam, depth: int) -> None:
    for name, kind in (("adamw", torch.optim.AdamW), ("muon", MuonWithAdamW)):
        cfg = OptimConfig(name=name, betas=[0.8, 0.9], lr=0.02)
        optimizer, schedule = build_optimizer(sam, cfg=cfg, max_steps=100)
        assert type(optimizer) is kind
        # The first step of 250 of the warm-up.
        factors = [g["lr"] / g["initial_lr"] for g in optimizer.param_groups]
        assert factors == pytest.approx([1 / 250] * len(factors))
        plain = [g for g in optimizer.param_groups if "momentum" not in g]
        assert max(g["initial_lr"] for g in plain) == 0.02
        assert all(tuple(g["betas"]) == (0.8, 0.9) for g in plain)
        assert len(schedule.base_lrs) == len(optimizer.param_groups)


def test_no_warm_up_is_as_long_as_the_run() -> None:
    """Rates stay finite where a run is no longer than its warm-up, and begin at once without."""
    for name in ("cosine", "linear"):
        factor = learning_rate_factor(OptimConfig(schedule=name, warmup_steps=4), 4)
        assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
        at_once = learning_rate_factor(OptimConfig(schedule=name, warmup_steps=0), 10)
        assert at_once(0) == 1
    assert learning_rate_factor(OptimConfig(warmup_steps=0), 10)(0) == 1
