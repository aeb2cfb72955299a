"""The simulated person: first prompts, clicks on errors, and the 11 rounds of training."""

from __future__ import annotations

from sam_train.prompts.config import PromptsConfig, Stage
from sam_train.prompts.rng import Draw
from sam_train.prompts.rounds import Rounds, Schedule, schedule

__all__ = ["Draw", "PromptsConfig", "Rounds", "Schedule", "Stage", "schedule"]
