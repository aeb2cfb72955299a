"""Settings of when the state of a run is saved, and which checkpoints are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

AUTO = "auto"
"""The value of `CheckpointConfig.metric` that leaves the choice to `metric_of`."""


@section("checkpoint", order=180, resume="harmless")
@dataclass
class CheckpointConfig:
    """Saving and retention."""

    every_steps: int = setting(500, minimum=0)
    """Steps between checkpoints; 0: only by time and at the end."""
    every_minutes: float = setting(15.0, minimum=0, below=math.inf)
    """Minutes after which to save, whatever the step: what a crash can cost at most; 0: never."""
    keep_last: int = setting(2, minimum=1)
    """Newest checkpoints to keep, from 1; two, so that a damaged one costs no more than a few
    hundred steps."""
    keep_best: int = setting(1, minimum=0)
    """Checkpoints with the best `metric` to keep as well; above 0, every step that is measured is
    saved, too."""
    metric: str = AUTO
    """Column of metrics.csv that says how good a checkpoint is. auto: `val/box` where every mask
    begins with a box (prompts.box_probability=1, or only kinds of boxes in prompts.first), because
    a click means nothing to such a model; else mIoU at the fewest clicks that are measured,
    `val/miou_1`."""
    higher_is_better: bool = True
    """Direction of `metric`: true for an IoU, false for a loss."""
    patience: int = setting(0, minimum=0)
    """Measurements of `metric` in a row without a new best after which training ends; 0: it runs
    to trainer.max_steps. The score before the first step counts as one. With a higher number the
    same command goes on."""
    keep_every: int = setting(0, minimum=0)
    """Checkpoints at multiples of this step are kept for good; 0: none."""
    background: bool = True
    """Training continues while a copy in CPU memory is written; false spares the copy."""
    grace_seconds: float = setting(60.0, minimum=0, below=math.inf)
    """Seconds between SIGTERM or SIGUSR1 and the end: what is not saved by then is given up, so
    that the job can still requeue itself. Below what the cluster grants; 0: no limit."""


@run_check
def _check_run(cfg: RunConfig) -> None:
    check_section(cfg.checkpoint)
    # Columns of other names are measured by other callbacks.
    scored = cfg.checkpoint.metric == AUTO or cfg.checkpoint.metric.startswith("val/")
    measured = cfg.data.val and cfg.callbacks.validation.every
    if cfg.checkpoint.patience and scored and not measured:
        raise UserError(
            f"checkpoint.patience={cfg.checkpoint.patience} counts measurements during training: "
            "set data.val and callbacks.validation.every=N, or checkpoint.patience=0"
        )
