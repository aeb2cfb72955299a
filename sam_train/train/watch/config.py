"""What counts as ill, and when a run gives up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam_train.errors import UserError


@dataclass
class HealthConfig:
    """A run that is ill says where, and ends rather than burning GPU hours in silence."""

    max_nonfinite: int = 10
    """Updates in a row that may be skipped because the loss or a gradient is NaN or infinite; then
    the run stops. One is a bad batch, ten are a model that is lost; at most this many steps are
    wasted."""
    hang_minutes: float = 15.0
    """Minutes without progress on any process after which the run ends and says who hangs where; 0:
    never. Below the 30 after which torch.distributed gives up without naming anyone."""
    slow_rank: float = 1.25
    """Name in log.txt the slowest process if the same work takes it this many times as long as the
    median process: all of them wait for it. 0: never."""
    data_wait: float = 0.2
    """Name in log.txt the process that waits most for its photos, if for more than this share of
    its time. 0: never."""


def check(cfg: HealthConfig) -> None:
    """Refuse what no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    if cfg.max_nonfinite < 1:
        raise UserError(f"health.max_nonfinite={cfg.max_nonfinite} must be at least 1")
    for name in ("hang_minutes", "data_wait"):
        if not 0 <= getattr(cfg, name) < math.inf:
            raise UserError(f"health.{name}={getattr(cfg, name)} must not be negative")
    if not (cfg.slow_rank == 0 or 1 < cfg.slow_rank < math.inf):
        raise UserError(f"health.slow_rank={cfg.slow_rank} must be above 1, or 0 for never")
