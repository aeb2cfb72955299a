"""100 deterministic steps of the full 11-round algorithm against stored losses.

Float64 and one thread: rounding stays some ten orders below what a changed line of the algorithm
does, so one tolerance holds for all steps and machines. A change that is meant to change the
numbers stores new ones, with the reason in its commit:

    python tests/golden/test_golden.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from data_tools.sample import SampleConfig, write_sample
from sam_train.data.datamodule import SamDataModule
from sam_train.settings.run import RunConfig
from sam_train.train.module import SamModule

STORED = Path(__file__).with_name("losses.json")
STEPS = 100
TOLERANCE = 1e-7
"""Relative. Weights that all start 1e-12 off stay within 2e-11 of these losses."""


class _Module(SamModule):
    at = 0

    @property
    def global_step(self) -> int:  # type: ignore[override]
        return self.at


def settings(shards: Path) -> RunConfig:
    """A SAM of 0.2 M parameters; every rule of the paper's step is on."""
    cfg = RunConfig(seed=7)
    model = cfg.model
    model.name, model.image_size, model.drop_path = "vit_t", 64, 0.0
    model.embed_dim, model.depth, model.heads, model.global_blocks = 48, 2, 2, [1]
    model.window_size, model.prompt_dim, model.decoder_heads = 3, 32, 2
    model.decoder_mlp_dim = 64
    cfg.data.train, cfg.data.workers = str(shards), 0
    cfg.data.batch_size, cfg.data.masks_per_image, cfg.data.cache = 2, 2, True
    cfg.optim.warmup_steps, cfg.optim.lr, cfg.optim.layer_decay = 10, 2e-3, 0.8
    cfg.prompts.box_noise_limit = 2.0
    cfg.trainer.max_steps = STEPS
    return cfg


def play(folder: Path, *, shift: float = 0.0) -> dict[str, Any]:
    """The losses, and sums that tell other data from other arithmetic."""
    write_sample(SampleConfig(scenes=6, height=64, width=64, zoom=2.0), folder, workers=1)
    cfg = settings(folder)
    torch.manual_seed(cfg.seed)
    module = _Module(cfg).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) + shift)
    sam = module.sam
    data = SamDataModule(
        cfg.data, image_size=sam.image_size, grid_size=sam.grid_size, seed=cfg.seed
    )
    built: Any = module.configure_optimizers()
    optimizer, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    losses, pixels, cells = [], 0, 0
    for module.at, batch in zip(range(STEPS), data.train_dataloader(), strict=False):
        pixels += int(batch.images.long().sum())
        cells += int(batch.masks.long().sum())
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return {"pixels": pixels, "cells": cells, "losses": losses}


def once(folder: Path, *, shift: float = 0.0) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        return play(folder, shift=shift)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def test_a_hundred_steps(tmp_path: Path) -> None:
    stored, found = json.loads(STORED.read_text()), once(tmp_path)
    for name in ("pixels", "cells"):
        assert found[name] == stored[name], "the data are other ones, not the arithmetic"
    assert len(found["losses"]) == STEPS
    assert found["losses"] == pytest.approx(stored["losses"], rel=TOLERANCE)
    # That the tiny model learns at all, so that no broken gradient is enshrined.
    assert sum(found["losses"][-10:]) < 0.8 * sum(found["losses"][:10])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        STORED.write_text(json.dumps(once(Path(scratch)), indent=1) + "\n")
    print(f"wrote {STORED}")
