"""Settings of the limits beyond which a run is ill, and of when it gives up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig


@section("health", order=190, resume="harmless")
@dataclass
class HealthConfig:
    """Limits beyond which a run is ill. It then names the place, and ends rather than burn time."""

    max_nonfinite: int = setting(10, minimum=1)
    """Updates in a row that may be skipped because the loss or a gradient is NaN or infinite; then
    the run stops. One is a bad batch, ten are a model that is lost; at most this many steps are
    wasted."""
    hang_minutes: float = setting(15.0, minimum=0, below=math.inf)
    """Minutes without progress on any process after which the run ends and says who hangs where; 0:
    never. Below the 30 after which torch.distributed gives up without naming anyone."""
    slow_rank: float = 1.25
    """Name in log.txt the slowest process if the same work takes it this many times as long as the
    median process: all of them wait for it. 0: never."""
    data_wait: float = setting(0.2, minimum=0, below=math.inf)
    """Name in log.txt the process that waits most for its photos, if for more than this share of
    its time. 0: never."""


def check(cfg: HealthConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_section(cfg)
    # A bound that a median rank itself reaches would name somebody at every look.
    if not (cfg.slow_rank == 0 or 1 < cfg.slow_rank < math.inf):
        raise UserError(f"health.slow_rank={cfg.slow_rank} must be above 1, or 0 for never")


@run_check
def _check_run(cfg: RunConfig) -> None:
    check(cfg.health)
