"""Notices what goes wrong in a run, and says where: numbers, processes, memory, speed."""

from sam_train.train.watch.config import HealthConfig, check

__all__ = ["HealthConfig", "check"]
