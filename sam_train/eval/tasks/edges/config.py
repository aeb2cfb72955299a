"""Settings of `task=edges`."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, section, setting


@section("edges", order=90, resume="harmless")
@dataclass
class EdgesConfig:
    """Edge maps, their ground truth, and how closely the two must agree."""

    maps: str = setting("", path="one")
    """Folder of edge maps of any program, named as the ground truths: `.png` (grey / 255) or `.mat`
    with `ucm2` (contours at double resolution) or `segs` (label maps). Left out: they are made by
    `ckpt` from `images`."""
    images: str = setting("", path="one")
    """Folder of photos, named as the ground truths; BSDS500's images/test."""
    ground_truth: str = setting("", path="one")
    """Folder of BSDS ground truths (`.mat`); every one of them needs a map or a photo."""
    thresholds: int = 99
    """Number of thresholds, evenly between 0 and 1 (the benchmark's own number)."""
    max_distance: float = 0.0075
    """Greatest distance of corresponding pixels, as a fraction of the image's diagonal."""
    points_per_side: int = setting(16, minimum=1)
    """Grid of points that prompt the model: 16 x 16 give 768 masks (paper D.2)."""
    nms: float = setting(0.7, above=0, maximum=1)
    """Box overlap of two masks above which the less confident one goes (paper B; D.2 names no
    other)."""


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
    check_section(cfg)


def check_benchmark(*, thresholds: int, max_distance: float) -> None:
    """Refuse values of the benchmark's own two settings.

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
