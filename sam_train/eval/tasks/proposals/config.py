"""Settings of `task=proposals`; the defaults are the paper's (D.3)."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.settings.sections import section, setting


@section("proposals", order=100, resume="harmless")
@dataclass
class ProposalsConfig:
    """Mask AR@1000 without categories, by size and by LVIS's frequency."""

    ground_truth: str = setting("", path="one")
    """LVIS or COCO JSON. Left out: the only set of these kinds in eval.datasets."""
    images: str = setting("", path="one")
    """Photos of the JSON. Left out: `images` beside the JSON, or the JSON's folder."""
    results: str = setting("", path="one")
    """Masks of any program as COCO's results JSON: image_id, segmentation, score; then no
    checkpoint is needed. Left out: masks of the checkpoint, see below."""
    limit: int = setting(1000, minimum=1)
    """Masks of an image that count: those of the highest score."""
    points_per_side: int = setting(64, minimum=1)
    """Grid of points on the photo, without crops."""
    nms: float = setting(0.9, above=0, maximum=1)
    """Box IoU above which the less sure of two masks is dropped; no other filter, as more than
    1000 masks are wanted. Then the best by the mean of predicted IoU and stability."""
