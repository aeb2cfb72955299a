"""Settings of `task=instances`; the defaults are the paper's (D.4)."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, section, setting

SCORES = ("auto", "box", "predicted_iou", "product")


@section("instances", order=110, resume="harmless")
@dataclass
class InstancesConfig:
    """COCO and LVIS AP of masks that boxes prompt."""

    ground_truth: str = setting("", path="one")
    """COCO or LVIS JSON. Left out: the only set of these kinds in eval.datasets."""
    images: str = setting("", path="one")
    """Photos of the JSON. Left out: `images` beside the JSON, or the JSON's folder."""
    boxes: str = setting("", path="one")
    """Boxes of any detector as COCO's results JSON: image_id, category_id, bbox [x, y, w, h],
    score. Left out: the boxes of the ground truth."""
    results: str = setting("", path="one")
    """Finished masks of any program as COCO's results JSON: nothing is prompted, no checkpoint is
    needed."""
    refine: int = setting(1, minimum=0)
    """Extra rounds: the most confident mask goes back as mask prompt together with the box (paper:
    1)."""
    max_boxes: int | None = setting(None, minimum=1)
    """Boxes of an image that are prompted, the best first. null: all, with LVIS 300, as many as
    its rules count."""
    score: str = setting("auto", choices=SCORES)
    """The ranking of the masks: box, the detector's score, as in the paper; predicted_iou; product
    of both. auto: box, or predicted_iou for the boxes of the ground truth, which have none."""


def check(cfg: InstancesConfig) -> None:
    """Refuse values that mean nothing.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_section(cfg)
    if cfg.boxes and cfg.results:
        raise UserError("instances.boxes are prompts, instances.results finished masks: give one")
