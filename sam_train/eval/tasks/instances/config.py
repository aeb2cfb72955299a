"""What can be set about `task=instances`; the defaults are the paper's (D.4)."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError

SCORES = ("auto", "box", "predicted_iou", "product")


@dataclass
class InstancesConfig:
    """COCO and LVIS AP of masks that boxes prompt."""

    ground_truth: str = ""
    """COCO or LVIS JSON. Left out: the only set of these kinds in eval.datasets."""
    images: str = ""
    """Its photos. Left out: `images` beside the JSON, or the JSON's folder."""
    boxes: str = ""
    """Boxes of any detector as COCO's results JSON: image_id, category_id, bbox [x, y, w, h],
    score. Left out: the boxes of the ground truth."""
    results: str = ""
    """Finished masks of any program as COCO's results JSON: nothing is prompted, no checkpoint is
    needed."""
    refine: int = 1
    """Extra rounds: the most confident mask goes back as mask prompt together with the box (paper:
    1)."""
    max_boxes: int | None = None
    """Boxes of an image that are prompted, the best first. null: all, with LVIS 300, as many as
    its rules count."""
    score: str = "auto"
    """What ranks the masks: box, the detector's score, as in the paper; predicted_iou; product of
    both. auto: box, or predicted_iou for the boxes of the ground truth, which have none."""


def check(cfg: InstancesConfig) -> None:
    """Refuse values that mean nothing.

    Raises:
        UserError: names the setting and what it may be.
    """
    if cfg.refine < 0:
        raise UserError(f"instances.refine={cfg.refine} must not be negative")
    if cfg.max_boxes is not None and cfg.max_boxes < 1:
        raise UserError(f"instances.max_boxes={cfg.max_boxes} must be at least 1, or null")
    if cfg.score not in SCORES:
        raise UserError(f"instances.score={cfg.score}: use one of {', '.join(SCORES)}")
    if cfg.boxes and cfg.results:
        raise UserError("instances.boxes are prompts, instances.results finished masks: give one")
