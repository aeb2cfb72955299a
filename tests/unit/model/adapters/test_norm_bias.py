"""Norms and biases of the image encoder alone are trained: chosen, fitted, resumed, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_tools.sample import SampleConfig, write_sample
from sam_train.errors import UserError
from sam_train.model import build_sam
from sam_train.model.adapters import tune
from sam_train.train.fit import fit
from sam_train.train.optim import parameter_groups
from sam_train.train.optim_config import OptimConfig, check


@pytest.mark.parametrize("name", ["vit_t", "conv_t"])
def test_of_the_encoder_norms_and_biases_alone(name: str) -> None:
    sam = build_sam(name, image_size=64)
    tune(sam, "norm_bias", frozen_blocks=0)
    trained = {n for n, p in sam.named_parameters() if p.requires_grad}
    inside = {n for n in trained if n.startswith("image_encoder.")}
    norms = {f"{n}.weight" for n, m in sam.named_modules() if "Norm" in type(m).__name__}
    biases = {n for n, _ in sam.named_parameters() if n.endswith(".bias")}
    assert inside == {n for n in norms | biases if n.startswith("image_encoder.")}
    outside = {n for n, _ in sam.named_parameters() if not n.startswith("image_encoder.")}
    assert trained - inside == outside
    held = {id(p) for g in parameter_groups(sam, cfg=OptimConfig()) for p in g["params"]}
    assert held == {id(p) for n, p in sam.named_parameters() if n in trained}


def test_frozen_blocks_go_with_it() -> None:
    sam = build_sam("vit_t", image_size=64)
    tune(sam, "norm_bias", frozen_blocks=2)
    trained = [n for n, p in sam.image_encoder.named_parameters() if p.requires_grad]
    assert not any(n.startswith(("patch_embed", "blocks.0.", "blocks.1.")) for n in trained)
    assert "blocks.2.norm1.weight" in trained


def test_unknown_tunings_are_refused() -> None:
    with pytest.raises(UserError, match=r"optim\.tune=bitfit is not one of .*all.*norm_bias"):
        check(OptimConfig(tune="bitfit"))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_sample(SampleConfig(scenes=4, height=64, width=64, zoom=2.0), folder, workers=0)
    return folder


def settings(scenes: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        *("model=vit_t", "model.image_size=64", "model.depth=2", "model.global_blocks=[1]"),
        *("prompts.points=1", "prompts.mask_only=0", "data.batch_size=2", "data.workers=0"),
        *(f"data.train={scenes}", "data.masks_per_image=2", "trainer.accelerator=cpu"),
        *("trainer.max_steps=4", "trainer.log_every=1", f"run_dir={run_dir}"),
        *("optim.warmup_steps=0", "callbacks.validation.every=0", "checkpoint.every_steps=2"),
        *("optim.tune=norm_bias", *more),
    ]


def stored(run_dir: Path, name: str = "last") -> dict[str, Tensor]:
    path = run_dir / "checkpoints" / f"{name}.ckpt"
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def test_a_run_moves_what_is_trained_and_resumes_to_the_bit(scenes: Path, tmp_path: Path) -> None:
    fit(settings(scenes, tmp_path / "whole"))
    early, last = stored(tmp_path / "whole", "step=2"), stored(tmp_path / "whole")
    moved = {name for name in last if not torch.equal(early[name], last[name])}
    inside = {name for name in moved if ".image_encoder." in name}
    assert all(n.endswith(".bias") or ".norm" in n or ".neck." in n for n in inside)
    assert "sam.image_encoder.neck.0.weight" not in inside
    assert {"sam.image_encoder.blocks.0.norm1.weight", "sam.mask_decoder.iou_token.weight"} <= moved

    halfway = tmp_path / "whole" / "checkpoints" / "step=2.ckpt"
    fit(settings(scenes, tmp_path / "resumed", f"resume='{halfway}'"))
    again = stored(tmp_path / "resumed")
    assert all(torch.equal(again[name], last[name]) for name in last)
    with pytest.raises(UserError, match=r"optim\.tune"):
        fit(settings(scenes, tmp_path / "other", f"resume='{halfway}'", "optim.tune=all"))
