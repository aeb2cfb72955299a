"""SAM's three modules, their sizes by name, and checkpoints of every kind."""

from sam_train.model.build import build_from_config
from sam_train.model.config import ModelConfig
from sam_train.model.load import build_sam
from sam_train.model.sam import Sam

__all__ = ["ModelConfig", "Sam", "build_from_config", "build_sam"]
