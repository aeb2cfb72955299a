"""What can be set about `generate`; the masks' settings have segment-anything's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam_train.errors import UserError

FORMATS = ("shards", "coco", "overlays")


@dataclass(kw_only=True)
class MaskConfig:
    """Which masks are kept. The defaults are `SamAutomaticMaskGenerator`'s; those of SA-1B, which
    the paper states (B), are in conf/generate/sa1b.yaml."""

    points_per_side: int = 32
    """Points along a side of the grid on the whole photo (paper B: 32)."""
    points_per_batch: int = 64
    """Points that the decoder answers at once: speed and memory, never the masks."""
    pred_iou_thresh: float = 0.88
    """Keep masks whose predicted IoU is above it (paper B: 0.88); 0 keeps all."""
    stability_score_thresh: float = 0.95
    """Keep masks whose stability is at least this (paper B: 0.95): the IoU of the masks cut at
    logits -offset and +offset; 0 keeps all."""
    stability_score_offset: float = 1.0
    """The offset of the two cuts (paper B: 1)."""
    box_nms_thresh: float = 0.7
    """Of two masks of a crop whose boxes have a higher IoU than this, the one of the higher
    predicted IoU stays (paper B: 0.7)."""
    crop_n_layers: int = 0
    """Layers of crops below the whole photo; layer n has 4^n (paper B: 2, so 1 + 4 + 16)."""
    crop_nms_thresh: float = 0.7
    """As `box_nms_thresh`, between crops; the one of the smaller crop stays (paper B: 0.7)."""
    crop_overlap_ratio: float = 512 / 1500
    """How far the crops of layer 1 overlap, in shorter sides of the photo (SA-1B's)."""
    crop_n_points_downscale_factor: int = 1
    """Points along a side are divided by it in each next layer (paper B: 2)."""
    min_mask_region_area: int = 0
    """Fill holes and remove islands of fewer pixels (paper B: 100); 0 leaves masks alone."""
    max_area_fraction: float | None = None
    """Drop masks that cover at least this part of the photo (paper B: 0.95); null keeps them, as
    segment-anything does."""
    drop_small_masks: bool = False
    """Drop a mask whose largest island is below `min_mask_region_area` (paper B). Off: that island
    stays, as in segment-anything."""
    crops_per_batch: int = 1
    """Crops that are encoded at once: speed and memory, never the masks."""
    existing_iou_thresh: float = 0.5
    """Where masks exist already (`generate.existing`), drop proposals that overlap one of them
    by at least this IoU. The paper is silent; 0.5 is the field's border of "the same object"."""


@dataclass(kw_only=True)
class GenerateConfig(MaskConfig):
    """What the verb `generate` reads and writes."""

    input: Any = ""
    """Photos: folders (with those below), files, globs, shards (tar), `.txt` lists; one of
    these or a list of them."""
    output: str | None = None
    """Folder for the results. Left out: `masks` in run_dir."""
    formats: Any = "shards"
    """Of shards (SA-1B's tars), coco (coco.json) and overlays (a PNG for each photo),
    one or a list."""
    existing: Any = ""
    """Shards with masks that exist already, matched to the photos by name without extension:
    points on them are not asked, and masks like them are not proposed."""
    samples_per_shard: int = 500
    """Photos of an output shard, at most."""
    overlay_side: int = 1024
    """Longest side of an overlay in pixels."""
    part: int | None = None
    """Which of `parts` this process works on, from 0. Left out: by torchrun's RANK, Slurm's task
    and array task."""
    parts: int | None = None
    """How many processes share the photos. Left out: as many as torchrun or Slurm started."""


def listed(value: Any) -> list[str]:
    """One text or a list of them, as people write it; empty ones mean nothing."""
    if value is None:
        return []
    texts = value if isinstance(value, list | tuple) else [value]
    return [str(text) for text in texts if str(text)]


def check_masks(cfg: MaskConfig) -> None:
    """Refuse values that mean nothing.

    Raises:
        UserError: names the setting and what it may be.
    """
    least = {
        "points_per_side": 1,
        "points_per_batch": 1,
        "crops_per_batch": 1,
        "crop_n_layers": 0,
        "crop_n_points_downscale_factor": 1,
        "min_mask_region_area": 0,
        "stability_score_offset": 0,
        "crop_overlap_ratio": 0,
    }
    for name, low in least.items():
        if getattr(cfg, name) < low:
            raise UserError(f"generate.{name}={getattr(cfg, name)} must be at least {low}")
    coarsest = cfg.points_per_side / cfg.crop_n_points_downscale_factor**cfg.crop_n_layers
    if coarsest < 1:
        raise UserError(
            f"generate.points_per_side={cfg.points_per_side} leaves no point for the smallest "
            f"crops: fewer crop_n_layers, or a smaller crop_n_points_downscale_factor"
        )
    if not cfg.crop_overlap_ratio < 1:
        raise UserError(f"generate.crop_overlap_ratio={cfg.crop_overlap_ratio} must be below 1")


def check(cfg: GenerateConfig) -> None:
    """`check_masks`, and what the verb needs besides.

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
    for name in ("samples_per_shard", "overlay_side"):
        if getattr(cfg, name) < 1:
            raise UserError(f"generate.{name}={getattr(cfg, name)} must be at least 1")
    if (cfg.part is None) != (cfg.parts is None):
        raise UserError("generate.part and generate.parts go together, such as part=0 parts=16")
    if cfg.part is not None and cfg.parts is not None and not 0 <= cfg.part < cfg.parts:
        raise UserError(f"generate.part={cfg.part} must lie from 0 to parts - 1 = {cfg.parts - 1}")
