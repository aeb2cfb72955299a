"""The callbacks of `fit`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import Callback

from sam_train.train.report.config import CallbacksConfig
from sam_train.train.report.evaluation import TaskEvaluation
from sam_train.train.report.meter import Recorder, StepMeter
from sam_train.train.report.progress import TrainingProgress
from sam_train.train.report.skips import SkipReport
from sam_train.train.report.validation import ClickValidation
from sam_train.train.watch.config import HealthConfig
from sam_train.train.watch.memory import MemoryBase
from sam_train.train.watch.nonfinite import NonfiniteWatch
from sam_train.train.watch.ranks import RankWatch
from sam_train.train.watch.watchdog import Watchdog


def build_callbacks(
    cfg: CallbacksConfig, *, run_dir: Path, log_every: int, health: HealthConfig | None = None
) -> list[Callback]:
    """Build the callbacks of `fit` in the order that they need (see `Recorder`, `StepMeter`)."""
    recorder = Recorder(run_dir)
    health = health or HealthConfig()
    nonfinite = NonfiniteWatch(health, run_dir=run_dir, log_every=log_every)
    ranks = RankWatch(health, run_dir=run_dir)
    meter = StepMeter(recorder, log_every=log_every, nonfinite=nonfinite, ranks=ranks)
    watched = cfg.evaluate.every > 0
    evaluation = [TaskEvaluation(cfg.evaluate, run_dir=run_dir, meter=meter)] if watched else []
    return [
        # First, so that a hang in any later callback is seen, too.
        Watchdog(health, run_dir=run_dir),
        MemoryBase(),
        recorder,
        nonfinite,
        # Before the meter, which must not count the time of measuring as waiting for data.
        ClickValidation(cfg.validation, run_dir=run_dir, meter=meter),
        *evaluation,
        meter,
        # Behind the meter, whose figures it shows.
        TrainingProgress(cfg.progress, meter),
        SkipReport(),
    ]
