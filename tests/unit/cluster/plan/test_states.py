"""What a rank holds, beside real models and optimizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from sam_train.cluster.plan.states import fake_ranks, states_of
from sam_train.errors import UserError
from sam_train.model import Sam, build_from_config
from sam_train.settings.run import RunConfig
from sam_train.train.optim import build_optimizer
from sam_train.train.parallel.prepare import split


def small(strategy: str = "ddp", **trainer: object) -> RunConfig:
    cfg = RunConfig()
    cfg.model.name, cfg.model.image_size = "vit_t", 64
    cfg.trainer.strategy, cfg.trainer.precision = strategy, "bf16-mixed"
    for name, value in trainer.items():
        setattr(cfg.trainer, name, value)
    return cfg


def own(tensor: Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()


def held(cfg: RunConfig, sam: Sam) -> tuple[int, int]:
    """Bytes of weights and of the moments behind a real update."""
    optimizer, _ = build_optimizer(sam, cfg=cfg.optim, max_steps=9)
    for parameter in sam.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    return sum(map(own, sam.parameters())), sum(own(v) for v in states if v.ndim)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weights_and_moments_as_a_real_optimizer_has_them(name: str) -> None:
    cfg = small()
    cfg.optim.name = name
    states = states_of(cfg, ranks=1)
    assert (states.weights, states.moments) == held(cfg, build_from_config(cfg.model))
    assert states.gradients == states.weights
    assert states.buffers == states.sent == 0
    many = states_of(cfg, ranks=4)
    assert many.buffers == many.gradients
    assert many.sent == 2 * many.gradients * 3 // 4


def test_fsdp2_holds_what_the_first_of_its_ranks_really_holds() -> None:
    cfg = small("fsdp2")
    states = states_of(cfg, ranks=3)
    with fake_ranks(3):
        sam = build_from_config(cfg.model)
        split(sam, init_device_mesh("cpu", (3,)), precision=cfg.trainer.precision)
        real = held(cfg, sam)
    assert (states.weights, states.moments) == real
    assert states.weights < states_of(small(), ranks=3).weights * 0.6
    assert states.low_blocks
    assert states.sends_gradients


def test_zero_divides_more_with_each_stage() -> None:
    whole = states_of(small(), ranks=4)
    one, two, three = (
        states_of(small("deepspeed", deepspeed=f"zero{stage}"), ranks=4) for stage in (1, 2, 3)
    )
    # A quarter of the moments and of the weights that they update.
    assert one.moments == pytest.approx((whole.moments + whole.weights) / 4, rel=1e-6)
    assert (one.gradients, one.weights) == (whole.gradients, whole.weights)
    assert two.gradients == pytest.approx(whole.gradients / 4, rel=1e-6)
    assert three.weights < two.weights == whole.weights
    offloaded = states_of(small("deepspeed", offload=True), ranks=4)
    assert offloaded.moments == 0
    assert offloaded.host == pytest.approx(two.moments + two.gradients, rel=1e-6)


def test_frozen_blocks_have_no_gradients() -> None:
    cfg = small()
    cfg.optim.frozen_blocks = 6
    states = states_of(cfg, ranks=1)
    assert states.gradients < states.weights / 2
    assert states.moments == 2 * states.gradients


def test_an_average_is_one_more_copy() -> None:
    cfg = small()
    without = states_of(cfg, ranks=1)
    cfg.optim.ema = 0.999
    assert states_of(cfg, ranks=1).moments == without.moments + without.weights


def test_a_stage_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"zero_optimization": {"stage": 0}}')
    with pytest.raises(UserError, match="plan knows ZeRO"):
        states_of(small("deepspeed", deepspeed=str(path)), ranks=2)
