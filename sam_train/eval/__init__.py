"""Measuring a model: k-click mIoU and the calibration of its IoU head."""

from __future__ import annotations

from sam_train.eval.clicks.interactive import CLICKS, ClickResult, Observer, evaluate_clicks
from sam_train.eval.clicks.scores import Calibration, ClickScores, comparison_table

__all__ = [
    "CLICKS",
    "Calibration",
    "ClickResult",
    "ClickScores",
    "Observer",
    "comparison_table",
    "evaluate_clicks",
]
