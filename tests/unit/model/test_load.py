"""Sizes that files record about themselves, and files that say something else there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sam_train.errors import UserError
from sam_train.export.segment_anything import save_segment_anything
from sam_train.model import ModelConfig, build_from_config
from sam_train.model.load import load_sam, recorded_model

SMALL = ModelConfig(name="vit_t", image_size=64, depth=1, global_blocks=[0], prompt_dim=32)


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    path = tmp_path / "sam.pth"
    save_segment_anything(build_from_config(SMALL), path, model=SMALL)
    return path


def test_the_json_beside_knows_the_sizes(pth: Path) -> None:
    assert recorded_model(pth) == SMALL
    assert load_sam(pth).image_size == 64


@pytest.mark.parametrize("text", ["", "[1, 2]", "{]", '{"images": []}', '{"sam_train": 3}'])
def test_any_other_json_beside_says_nothing(pth: Path, text: str) -> None:
    pth.with_suffix(".json").write_text(text)
    assert recorded_model(pth) is None
    with pytest.raises(UserError, match="does not say its model's sizes"):
        load_sam(pth)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"embed_dim": "wide"}, "no such sizes"),
        ({"global_blocks": {"a": 1}}, "no such sizes"),
        ({"depth": [3]}, "no such sizes"),
        ({"name": "vit_x"}, "model.name=vit_x"),
        ({"hands": 2}, "a setting that this version lacks"),
    ],
)
def test_sizes_that_are_none(pth: Path, sizes: dict[str, Any], said: str) -> None:
    pth.with_suffix(".json").write_text(json.dumps({"sam_train": {"model": sizes}}))
    with pytest.raises(UserError, match=said):
        load_sam(pth)


def test_an_older_checkpoint_recomputed_or_not(tmp_path: Path) -> None:
    """`checkpoint_blocks` was a truth value once."""
    path = tmp_path / "last.ckpt"
    state = {f"sam.{k}": t for k, t in build_from_config(SMALL).state_dict().items()}
    record = {"name": "vit_t", "image_size": 64, "depth": 1, "global_blocks": [0]}
    torch.save(
        {
            "state_dict": state,
            "model_config": record | {"prompt_dim": 32, "checkpoint_blocks": False},
        },
        path,
    )
    assert load_sam(path).image_size == 64
