"""An update that is not finite leaves everything alone; one that is changes by no bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sam_train.train.muon import MuonWithAdamW
from sam_train.train.watch.skipping import OnHost, skip_if_nonfinite, spoil_if_nonfinite

Build = Callable[[nn.Module], Optimizer]


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.1, fused=True)


def muon(model: nn.Module) -> Optimizer:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": matrices, "lr": 0.1, "weight_decay": 0.1, "momentum": 0.9},
        {"params": rest, "lr": 0.1, "weight_decay": 0.0},
    ]
    return MuonWithAdamW(groups, betas=(0.9, 0.999))


def step(model: nn.Module, optimizer: Optimizer, x: Tensor, *, watched: bool = True) -> None:
    optimizer.zero_grad()
    loss = model(x).square().sum()
    (spoil_if_nonfinite(loss) if watched else loss).backward()
    if watched:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        skip_if_nonfinite(optimizer, torch.nn.utils.get_total_norm(gradients))
    optimizer.step()


def state(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    moments: Any = optimizer.state_dict()["state"]
    return [
        *model.state_dict().values(),
        *(torch.as_tensor(v) for _, values in sorted(moments.items()) for v in values.values()),
    ]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("build", [adamw, muon])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_bad_update_leaves_no_trace(build: Build, bad: float) -> None:
    """Good, bad, good ends as good, good does: weights, moments and the optimizer's counters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    other = copy.deepcopy(model)
    batches = [torch.randn(5, 4) for _ in range(2)]
    optimizer, plain = build(model), build(other)
    step(model, optimizer, batches[0])
    before = [t.clone() for t in state(model, optimizer)]
    spoilt = batches[1].clone()
    spoilt[0], spoilt[1] = bad, -bad
    step(model, optimizer, spoilt)
    assert same(state(model, optimizer), before)
    step(model, optimizer, batches[1])
    for x in batches:
        step(other, plain, x, watched=False)
    assert same(state(model, optimizer), state(other, plain))
    assert not same(state(model, optimizer), before)


@pytest.mark.parametrize("build", [adamw, muon])
def test_the_first_update_may_be_bad(build: Build) -> None:
    model = nn.Linear(2, 1)
    optimizer = build(model)
    before = [p.detach().clone() for p in model.parameters()]
    step(model, optimizer, torch.tensor([[math.nan, 0.0]]))
    assert same(list(model.parameters()), before)
    step(model, optimizer, torch.tensor([[1.0, 2.0]]))
    assert not same(list(model.parameters()), before)


def test_a_bad_loss_spoils_a_gradient_that_would_be_finite() -> None:
    x = torch.tensor([2.0], requires_grad=True)
    spoil_if_nonfinite(x + math.inf).sum().backward()
    assert x.grad is not None
    assert x.grad.isnan().all()
    y = torch.randn(100, requires_grad=True)
    weights = torch.randn(100)
    loss = (y * weights).sum()
    out = spoil_if_nonfinite(loss)
    assert torch.equal(out, loss)
    out.backward()
    assert y.grad is not None
    assert torch.equal(y.grad, weights)


def test_a_value_on_the_host_is_that_of_its_time() -> None:
    value = torch.tensor(3.0)
    kept = OnHost(value)
    value.fill_(4.0)
    assert float(kept.read()) == 3.0
    assert not kept.later
