"""First prompts, one file for each kind; importing the package registers those of this folder."""

from __future__ import annotations

from sam_train.prompts.first.base import FIRST_PROMPTS, FirstPrompt
from sam_train.prompts.first.box import BoxPrompt
from sam_train.prompts.first.loose_box import LooseBox
from sam_train.prompts.first.point import PointPrompt
from sam_train.prompts.first.two_points import PointAndNegative, TwoPoints

__all__ = [
    "FIRST_PROMPTS",
    "BoxPrompt",
    "FirstPrompt",
    "LooseBox",
    "PointAndNegative",
    "PointPrompt",
    "TwoPoints",
]
