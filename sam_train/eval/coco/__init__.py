"""COCO's and LVIS's ground truth and results, and their average precision and recall."""

from __future__ import annotations

from sam_train.eval.coco.results import Detection, Results, read_results
from sam_train.eval.coco.truth import Truth, TruthImage, TruthMask, open_truth, read_truth

__all__ = [
    "Detection",
    "Results",
    "Truth",
    "TruthImage",
    "TruthMask",
    "open_truth",
    "read_results",
    "read_truth",
]
