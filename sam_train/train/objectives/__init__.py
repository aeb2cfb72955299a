"""Objectives, one file for each; importing the package registers those of this folder."""

from __future__ import annotations

from sam_train.train.objectives.base import OBJECTIVES, At, Objective, RoundOutcome
from sam_train.train.objectives.interactive import Interactive
from sam_train.train.objectives.one_round import OneRound

__all__ = ["OBJECTIVES", "At", "Interactive", "Objective", "OneRound", "RoundOutcome"]
