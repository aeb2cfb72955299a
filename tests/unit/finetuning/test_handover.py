"""The best weights are handed on in each format that knows such a model, and the rest is said."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sam_train.eval.clicks.scores import Calibration, ClickScores
from sam_train.export.config import CardConfig
from sam_train.export.safetensors_file import save_weights
from sam_train.finetuning.handover import Handed, best_checkpoint, write_weights
from sam_train.model import ModelConfig, build_from_config
from sam_train.model.load import load_sam
from sam_train.settings.compose import load_config

TINY = ModelConfig(name="vit_t", image_size=64, depth=1, embed_dim=32, heads=2, global_blocks=[0])
NOTHING = ClickScores(
    miou={1: 0.5},
    oracle=0.6,
    masks=3,
    images=2,
    calibration=Calibration(
        count=[], predicted=[], real=[], mean_absolute_error=0, expected_error=0, correlation=0
    ),
)


def handed_on(model: ModelConfig, folder: Path) -> list[str]:
    """Write a model that `model` describes as the best of a run."""
    torch.manual_seed(0)
    checkpoint = folder / "best.safetensors"
    save_weights(build_from_config(model), checkpoint, model=model, dtype=torch.float32)
    handed = Handed(before=NOTHING, after=replace(NOTHING, miou={1: 0.75}), pictures=[])
    return write_weights(checkpoint, folder / "run", handed=handed, card=CardConfig())


def test_more_than_three_bands_are_safetensors_alone_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("sam_train"), "propagate", True)
    (tmp_path / "run").mkdir()
    with caplog.at_level(logging.INFO, logger="sam_train"):
        written = handed_on(replace(TINY, bands=[1, 2, 3, 4]), tmp_path)
    assert [Path(path).name for path in written] == ["model.safetensors"]
    assert "other programs have no SAM of 4 bands" in caplog.text
    own, other = load_sam(tmp_path / "best.safetensors"), load_sam(written[0])
    for name, value in own.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_the_best_by_the_runs_own_metric_is_measured(tmp_path: Path) -> None:
    cfg = load_config(["data.train=x"])
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    # Nothing was measured: the last one.
    assert best_checkpoint(cfg, tmp_path) == folder / "last.ckpt"
    for step in (2, 4, 6):
        (folder / f"step={step}.ckpt").touch()
    rows = ["step,val/miou_1,val/box", "2,0.3,0.9", "4,0.5,0.8", "6,0.4,0.7"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert best_checkpoint(cfg, tmp_path) == folder / "step=4.ckpt"
    boxes = load_config(["data.train=x", "prompts.box_probability=1"])
    assert best_checkpoint(boxes, tmp_path) == folder / "step=2.ckpt"
