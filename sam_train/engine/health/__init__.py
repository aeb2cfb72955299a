"""Notices what goes wrong in a run, and says where: numbers, processes, memory, speed."""

from sam_train.engine.health.config import HealthConfig, check

__all__ = ["HealthConfig", "check"]
