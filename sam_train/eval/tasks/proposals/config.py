"""What can be set about `task=proposals`; the defaults are the paper's (D.3)."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError


@dataclass
class ProposalsConfig:
    """Mask AR@1000 without categories, by size and by LVIS's frequency."""

    ground_truth: str = ""
    """LVIS or COCO JSON. Left out: the only set of these kinds in eval.datasets."""
    images: str = ""
    """Its photos. Left out: `images` beside the JSON, or the JSON's folder."""
    results: str = ""
    """Masks of any program as COCO's results JSON: image_id, segmentation, score; then no
    checkpoint is needed. Left out: masks of the checkpoint, see below."""
    limit: int = 1000
    """Masks of an image that count: those of the highest score."""
    points_per_side: int = 64
    """Grid of points on the photo, without crops."""
    nms: float = 0.9
    """Box IoU above which the less sure of two masks is dropped; no other filter, as more than
    1000 masks are wanted. Then the best by the mean of predicted IoU and stability."""


def check(cfg: ProposalsConfig) -> None:
    """Refuse values that mean nothing.

    Raises:
        UserError: names the setting and what it may be.
    """
    for name in ("limit", "points_per_side"):
        if getattr(cfg, name) < 1:
            raise UserError(f"proposals.{name}={getattr(cfg, name)} must be at least 1")
    if not 0 < cfg.nms <= 1:
        raise UserError(f"proposals.nms={cfg.nms} must lie above 0 and up to 1")
