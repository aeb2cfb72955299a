"""Settings: segment-anything's names and defaults, the paper's preset, and what is refused."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest
import segment_anything_reference

from sam_train.errors import UserError
from sam_train.generate import AutomaticMaskGenerator, GenerateConfig, MaskConfig
from sam_train.generate.config import check, listed
from sam_train.model import build_sam
from sam_train.settings.compose import load_config


def test_names_and_defaults_are_the_references() -> None:
    reference = segment_anything_reference.load().SamAutomaticMaskGenerator
    theirs = dict(inspect.signature(reference.__init__).parameters)
    for name in ("self", "model", "point_grids", "output_mode"):
        del theirs[name]
    ours = {f.name: f.default for f in fields(MaskConfig)}
    assert {name: ours[name] for name in theirs} == {n: p.default for n, p in theirs.items()}


def test_the_preset_is_the_papers() -> None:
    cfg = load_config(["generate=sa1b", "generate.points_per_side=16"]).generate
    assert (cfg.crop_n_layers, cfg.crop_n_points_downscale_factor, cfg.points_per_side) == (
        2,
        2,
        16,
    )
    assert (cfg.pred_iou_thresh, cfg.stability_score_thresh, cfg.box_nms_thresh) == (
        0.88,
        0.95,
        0.7,
    )
    assert (cfg.min_mask_region_area, cfg.max_area_fraction) == (100, 0.95)
    assert cfg.drop_small_masks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": ""}, "generate.input is not set"),
        ({"formats": ["png"]}, "png is not one of shards"),
        ({"formats": []}, "formats is empty"),
        ({"part": 3, "parts": 3}, "part=3 must lie from 0"),
        ({"parts": 3}, "go together"),
        ({"crop_n_layers": 6, "crop_n_points_downscale_factor": 2}, "no point"),
        ({"points_per_batch": 0}, "points_per_batch=0 must be at least 1"),
        ({"stability_score_offset": -1.0}, "stability_score_offset=-1.0 must not be negative"),
        ({"crop_overlap_ratio": 1.0}, "must be from 0 to below 1"),
        ({"samples_per_shard": 0}, "samples_per_shard=0 must be at least 1"),
    ],
)
def test_what_no_run_can_mean(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(GenerateConfig(**{"input": "photos", **settings}))


def test_the_class_refuses_what_it_cannot_do() -> None:
    sam = build_sam("vit_t", image_size=64, depth=1, global_blocks=[0])
    with pytest.raises(ValueError, match="output_mode=png is not one of binary_mask"):
        AutomaticMaskGenerator(sam, output_mode="png")
    with pytest.raises(ValueError, match="1 point_grids for 2 layers"):
        AutomaticMaskGenerator(sam, point_grids=[MaskConfig], crop_n_layers=1)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="points_per_sid"):
        AutomaticMaskGenerator(sam, points_per_sid=3)
    with pytest.raises(ValueError, match="not both"):
        AutomaticMaskGenerator(sam, MaskConfig(), points_per_side=3)
    with pytest.raises(ValueError, match="uint8"):
        AutomaticMaskGenerator(sam).generate([])  # type: ignore[arg-type]


def test_a_folder_called_by_a_year() -> None:
    assert listed(load_config(["generate.input=2024"]).generate.input) == ["2024"]
    assert listed("") == listed(None) == listed([]) == []
