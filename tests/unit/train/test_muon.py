"""`MuonWithAdamW` against torch's own two optimizers, side by side."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

from sam_train.model import build_sam
from sam_train.train.muon import MuonWithAdamW
from sam_train.train.optim import OptimConfig, build_optimizer, roles_of

BETAS = (0.9, 0.98)


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator)) for s in [(8, 4), (4, 8), (8,)]]


def groups(of: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": of[:2], "lr": 0.02, "weight_decay": 0.1, "momentum": 0.9},
        {"params": of[2:], "lr": 0.03, "weight_decay": 0.01},
    ]


def set_gradients(of: list[nn.Parameter], *, step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in of:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def run(optimizer: Any, of: list[nn.Parameter], *, steps: range) -> None:
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in steps:
        set_gradients(of, step=step)
        optimizer.step()
        schedule.step()


def test_equals_torchs_muon_and_adamw_under_a_schedule() -> None:
    ours, theirs = parameters(), parameters()
    run(MuonWithAdamW(groups(ours), betas=BETAS), ours, steps=range(5))
    first, second = groups(theirs)
    run(Muon([first], adjust_lr_fn="match_rms_adamw"), theirs, steps=range(5))
    run(AdamW([second], betas=BETAS, fused=True), theirs, steps=range(5))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_goes_on_from_a_saved_state_as_if_unbroken() -> None:
    unbroken = parameters()
    optimizer = MuonWithAdamW(groups(unbroken), betas=BETAS)
    for step in range(6):
        if step == 3:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            resumed = copy.deepcopy(unbroken)
        set_gradients(unbroken, step=step)
        optimizer.step()
    file.seek(0)
    again = MuonWithAdamW(groups(resumed), betas=BETAS)
    again.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 6):
        set_gradients(resumed, step=step)
        again.step()
    for a, b in zip(unbroken, resumed, strict=True):
        assert torch.equal(a, b)


def test_muon_takes_the_matrices_between_features_and_nothing_else() -> None:
    sam = build_sam("vit_t", image_size=64)
    taken = {name for name, role in roles_of(sam).items() if role.orthogonalises}
    assert {
        "image_encoder.blocks.0.attn.qkv.weight",
        "mask_decoder.transformer.layers.1.mlp.lin2.weight",
        "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight",
        "mask_decoder.iou_prediction_head.layers.2.weight",
    } <= taken
    assert not any(name.startswith("prompt_encoder") for name in taken)
    others = ("rel_pos", "pos_embed", "patch_embed", "mask_tokens", "iou_token")
    assert not any(other in name for name in taken for other in others)
    cfg = OptimConfig(name="muon", lr=1.0, muon_lr=3.0, layer_decay=1.0)
    optimizer, _ = build_optimizer(sam, cfg=cfg, max_steps=10)
    rates = {id(p): g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
    assert {name for name, p in sam.named_parameters() if rates[id(p)] == 3.0} == taken
    assert len(rates) == len(list(sam.parameters()))
