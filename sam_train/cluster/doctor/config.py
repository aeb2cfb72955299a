"""How patient and how strict the pre-flight is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam_train.errors import UserError


@dataclass
class DoctorConfig:
    """Only the verb `doctor` reads these."""

    seconds: float = 60.0
    """Longest that each stage may take: the ranks' meeting, the checks of a node, the network. What
    is not finished by then is reported as such."""
    bandwidth: float = 0.0
    """GB/s of the all-reduce (NCCL's bus bandwidth) below which a job is refused; 0: only shown."""


def check(cfg: DoctorConfig) -> None:
    """Refuse what no pre-flight can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    if not 0 < cfg.seconds < math.inf:
        raise UserError(f"doctor.seconds={cfg.seconds} must be above 0")
    if not 0 <= cfg.bandwidth < math.inf:
        raise UserError(f"doctor.bandwidth={cfg.bandwidth} must not be negative")
