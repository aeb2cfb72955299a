"""What a person may set about `task=edges`."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError


@dataclass
class EdgesConfig:
    """Which maps, against what, and how closely."""

    maps: str = ""
    """Folder of edge maps of any program, named as the ground truths: `.png` (grey / 255) or `.mat`
    with `ucm2` (contours at double resolution) or `segs` (label maps). Left out: they are made by
    `ckpt` from `images`."""
    images: str = ""
    """Folder of photos, named as the ground truths; BSDS500's images/test."""
    ground_truth: str = ""
    """Folder of BSDS ground truths (`.mat`); every one of them needs a map or a photo."""
    thresholds: int = 99
    """How many, evenly between 0 and 1 (the benchmark's own number)."""
    max_distance: float = 0.0075
    """How far apart corresponding pixels may lie, as a fraction of the image's diagonal."""
    points_per_side: int = 16
    """Grid of points that prompt the model: 16 x 16 give 768 masks (paper D.2)."""
    nms: float = 0.7
    """Of two masks whose boxes overlap more than this, the less confident one goes (paper B; D.2
    names no other)."""


def check(cfg: EdgesConfig) -> None:
    """Refuse values that no evaluation can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    if not cfg.ground_truth:
        raise UserError(
            "edges.ground_truth is not set; give it a folder: edges.ground_truth=FOLDER"
        )
    if not cfg.maps and not cfg.images:
        raise UserError(
            "neither edges.images nor edges.maps is set; give photos for ckpt to find edges in, "
            "edges.images=FOLDER, or finished maps, edges.maps=FOLDER"
        )
    if cfg.maps and cfg.images:
        raise UserError("edges.maps and edges.images are both set: leave one of them out")
    check_benchmark(thresholds=cfg.thresholds, max_distance=cfg.max_distance)
    if cfg.points_per_side < 1:
        raise UserError(f"edges.points_per_side={cfg.points_per_side} must be at least 1")
    if not 0 < cfg.nms <= 1:
        raise UserError(f"edges.nms={cfg.nms} must lie between 0 and 1")


def check_benchmark(*, thresholds: int, max_distance: float) -> None:
    """The benchmark's own two settings.

    Raises:
        UserError: names the option and what it may be.
    """
    if thresholds < 1:
        raise UserError(f"edges.thresholds={thresholds} must be at least 1 (the benchmark has 99)")
    if not 0 < max_distance < 1:
        raise UserError(
            f"edges.max_distance={max_distance} must lie between 0 and 1: a fraction of the "
            "diagonal (BSDS500 uses 0.0075)"
        )
