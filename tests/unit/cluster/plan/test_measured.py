"""The plan beside real steps on this CPU: torch's allocator and torch's FLOP counter."""

from __future__ import annotations

import pytest
import torch

from sam_train.cluster.plan.measure import compare
from sam_train.cluster.plan.settings import Setting
from sam_train.cluster.plan.states import whole_model
from sam_train.settings.run import RunConfig


@pytest.mark.parametrize(
    ("recompute", "precision", "images", "masks", "tune"),
    [
        ("none", "32-true", 1, 4, "all"),
        ("selective", "bf16-mixed", 2, 2, "all"),
        ("full", "32-true", 2, 1, "all"),
        ("selective", "bf16-mixed", 2, 2, "lora+last_blocks"),
        ("none", "32-true", 1, 4, "decoder"),
    ],
)
def test_a_step_takes_what_was_planned(
    recompute: str, precision: str, images: int, masks: int, tune: str
) -> None:
    # Each thread of a CPU's kernels has a scratch of its own, which no GPU has and no plan counts.
    torch.set_num_threads(1)
    cfg = RunConfig()
    cfg.model.name, cfg.model.image_size = "vit_t", 128
    cfg.model.depth, cfg.model.global_blocks, cfg.model.window_size = 3, [2], 3
    cfg.model.drop_path = 0.4
    cfg.optim.tune, cfg.optim.last_blocks = tune, 1
    cfg.prompts.points, cfg.prompts.mask_only = 1, 1
    cfg.data.masks_per_image = masks
    setting = Setting(
        images=images,
        masks=masks,
        turns=1,
        recompute=recompute,
        precision=precision,
        strategy="ddp",
    )
    found = compare(cfg, setting)
    # What kernels take and give back by themselves is not planned.
    assert found.memory.ratio == pytest.approx(1, abs=0.1)
    # Weights alone would not do.
    weights = sum(p.numel() for p in whole_model(cfg).parameters())
    assert found.memory.measured > 1.5 * 4 * weights
    assert found.flops.planned == found.flops.measured
