"""Sizes by name, overrides, and refusals that say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from sam_train.errors import UserError
from sam_train.model import ModelConfig, build_from_config, build_sam
from sam_train.model.build import resolve


@pytest.mark.parametrize(
    ("name", "dim", "depth", "heads", "global_blocks"),
    [  # paper A
        ("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        ("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        ("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
    ],
)
def test_the_papers_sizes(
    *, name: str, dim: int, depth: int, heads: int, global_blocks: tuple[int, ...]
) -> None:
    arch = resolve(ModelConfig(name=name))
    assert (arch.embed_dim, arch.depth, arch.heads) == (dim, depth, heads)
    assert arch.global_blocks == global_blocks
    assert (arch.image_size, arch.patch_size, arch.window_size) == (1024, 16, 14)
    assert (arch.prompt_dim, arch.decoder_depth, arch.decoder_mlp_dim) == (256, 2, 2048)


def test_the_smallest_fits_five_megabytes_in_float16() -> None:
    sam = build_sam("vit_t")
    assert sum(p.numel() for p in sam.parameters()) <= 2_500_000
    assert (sam.image_size, sam.grid_size) == (256, 64)


def test_any_image_size_that_is_a_multiple_of_the_patch_size() -> None:
    sam = build_sam("vit_t", image_size=80)
    images = torch.zeros(1, 3, 80, 80, dtype=torch.uint8)
    assert sam.encode(images, torch.tensor([[80, 80]])).shape == (1, 128, 5, 5)
    assert sam.grid_size == 20


def test_the_data_engines_decoder_has_three_blocks() -> None:
    with torch.device("meta"):
        sam = build_from_config(ModelConfig(name="vit_b", decoder_depth=3))
    assert len(sam.mask_decoder.transformer.layers) == 3


def test_the_config_is_a_structured_config() -> None:
    cfg = OmegaConf.merge(OmegaConf.structured(ModelConfig), {"name": "vit_t", "depth": 2})
    cfg = OmegaConf.merge(cfg, {"global_blocks": [0]})
    typed = OmegaConf.to_object(cfg)
    assert isinstance(typed, ModelConfig)
    assert len(build_from_config(typed).image_encoder.blocks) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"name": "vit_x"}, "vit_h, vit_l, vit_b"),
        ({"image_size": 250}, "240 or 256"),
        ({"heads": 7}, "heads=7"),
        ({"prompt_dim": 100}, "prompt_dim=100"),
        ({"depth": 3}, "global_blocks"),
        ({"decoder_activation": "tanh"}, "gelu, relu"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(ModelConfig(**{"name": "vit_t", **overrides}))


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(UserError, match="dropout"):
        build_sam("vit_t", dropout=0.1)
