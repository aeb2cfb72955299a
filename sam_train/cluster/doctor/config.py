"""Settings of `doctor`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam_train.settings.sections import section, setting


@section("doctor", order=200, resume="harmless")
@dataclass
class DoctorConfig:
    """The patience and the strictness of the pre-flight; only the verb `doctor` reads them."""

    seconds: float = setting(60.0, above=0, below=math.inf)
    """Longest that each stage may take: the ranks' meeting, the checks of a node, the network. What
    is not finished by then is reported as such."""
    bandwidth: float = setting(0.0, minimum=0, below=math.inf)
    """GB/s of the all-reduce (NCCL's bus bandwidth) below which a job is refused; 0: only shown."""
