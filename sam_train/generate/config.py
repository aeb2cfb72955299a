"""Settings of `generate`; the masks' settings have segment-anything's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, section, setting

FORMATS = ("shards", "coco", "overlays")


@dataclass(kw_only=True)
class MaskConfig:
    """The masks that are kept. The defaults are `SamAutomaticMaskGenerator`'s; SA-1B's, which
    the paper states (B), are in conf/generate/sa1b.yaml."""

    points_per_side: int = setting(32, minimum=1)
    """Points along a side of the grid on the whole photo (paper B: 32)."""
    points_per_batch: int = setting(64, minimum=1)
    """Points that the decoder answers at once: speed and memory, never the masks."""
    pred_iou_thresh: float = 0.88
    """Keep masks whose predicted IoU is above it (paper B: 0.88); 0 keeps all."""
    stability_score_thresh: float = 0.95
    """Keep masks whose stability is at least this (paper B: 0.95): the IoU of the masks cut at
    logits -offset and +offset; 0 keeps all."""
    stability_score_offset: float = setting(1.0, minimum=0)
    """The offset of the two cuts (paper B: 1)."""
    box_nms_thresh: float = 0.7
    """Box IoU of two masks of a crop above which only the one of the higher predicted IoU stays
    (paper B: 0.7)."""
    crop_n_layers: int = setting(0, minimum=0)
    """Layers of crops below the whole photo; layer n has 4^n (paper B: 2, so 1 + 4 + 16)."""
    crop_nms_thresh: float = 0.7
    """The same as `box_nms_thresh`, between crops; the one of the smaller crop stays (paper B:
    0.7)."""
    crop_overlap_ratio: float = setting(512 / 1500, minimum=0, below=1)
    """Overlap of the crops of layer 1, in shorter sides of the photo (SA-1B's)."""
    crop_n_points_downscale_factor: int = setting(1, minimum=1)
    """Points along a side are divided by it in each next layer (paper B: 2)."""
    min_mask_region_area: int = setting(0, minimum=0)
    """Fill holes and remove islands of fewer pixels (paper B: 100); 0 leaves masks alone."""
    max_area_fraction: float | None = None
    """Drop masks that cover at least this part of the photo (paper B: 0.95); null keeps them, as
    segment-anything does."""
    drop_small_masks: bool = False
    """Drop a mask whose largest island is below `min_mask_region_area` (paper B). Off: that island
    stays, as in segment-anything."""
    crops_per_batch: int = setting(1, minimum=1)
    """Crops that are encoded at once: speed and memory, never the masks."""
    existing_iou_thresh: float = 0.5
    """Drop proposals, where masks exist already (`generate.existing`), that overlap one of them
    by at least this IoU. The paper is silent; 0.5 is the field's border of "the same object"."""


@section("generate", order=140, resume="harmless")
@dataclass(kw_only=True)
class GenerateConfig(MaskConfig):
    """Input and output of the verb `generate`."""

    input: Any = setting("", path="many")
    """Photos: folders (with those below), files, globs, shards (tar), `.txt` lists; one of
    these or a list of them."""
    output: str | None = setting(None, path="one")
    """Folder for the results. Left out: `masks` in run_dir."""
    formats: Any = "shards"
    """shards (SA-1B's tars), coco (coco.json) or overlays (a PNG for each photo), or a list."""
    existing: Any = setting("", path="many")
    """Shards with masks that exist already, matched to the photos by name without extension:
    points on them are not asked, and masks like them are not proposed."""
    samples_per_shard: int = setting(500, minimum=1)
    """Photos of an output shard, at most."""
    overlay_side: int = setting(1024, minimum=1)
    """Longest side of an overlay in pixels."""
    part: int | None = None
    """The one of `parts` that this process works on, from 0. Left out: by torchrun's RANK,
    Slurm's task and array task."""
    parts: int | None = None
    """Processes that share the photos. Left out: as many as torchrun or Slurm started."""


def listed(value: Any) -> list[str]:
    """Return a text or a list of them as a list without empty ones."""
    if value is None:
        return []
    texts = value if isinstance(value, list | tuple) else [value]
    return [str(text) for text in texts if str(text)]


def check_masks(cfg: MaskConfig) -> None:
    """Refuse values that mean nothing.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_section(cfg, "generate")
    coarsest = cfg.points_per_side / cfg.crop_n_points_downscale_factor**cfg.crop_n_layers
    if coarsest < 1:
        raise UserError(
            f"generate.points_per_side={cfg.points_per_side} leaves no point for the smallest "
            f"crops: fewer crop_n_layers, or a smaller crop_n_points_downscale_factor"
        )


def check(cfg: GenerateConfig) -> None:
    """Refuse what `check_masks` does, and what the verb cannot work with.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_masks(cfg)
    if not listed(cfg.input):
        raise UserError(
            "generate.input is not set: name photos, such as generate.input=photos/, or shards"
        )
    formats = listed(cfg.formats)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(f"generate.formats: {unknown[0]} is not one of {', '.join(FORMATS)}")
    if not formats:
        raise UserError(f"generate.formats is empty: write at least one of {', '.join(FORMATS)}")
    if (cfg.part is None) != (cfg.parts is None):
        raise UserError("generate.part and generate.parts go together, such as part=0 parts=16")
    if cfg.part is not None and cfg.parts is not None and not 0 <= cfg.part < cfg.parts:
        raise UserError(f"generate.part={cfg.part} must lie from 0 to parts - 1 = {cfg.parts - 1}")
