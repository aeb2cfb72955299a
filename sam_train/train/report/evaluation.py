"""Tasks of `evaluate` on a small fixed part of their data while a model trains, and their trend."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sam_train.errors import UserError
from sam_train.eval.frame.result import TaskResult, Value
from sam_train.eval.frame.tasks import Run, load_task
from sam_train.eval.frame.work import run_task
from sam_train.runtime.parts import Share
from sam_train.train.averaging import averaged
from sam_train.train.report.config import EvaluationConfig
from sam_train.train.report.meter import StepMeter
from sam_train.train.report.metrics_file import read_columns
from sam_train.train.report.validation import whole_sam
from sam_train.train.watch.pulse import PULSE
from sam_train.types import Batch

log = logging.getLogger("sam_train")

_LINES = 8
"""Lines in one panel, at most."""


class TaskEvaluation(Callback):
    """Figures as `eval/TASK/NAME` to metrics.csv and the loggers; run_dir/evaluate has the newest
    results with their pictures, run_dir/pictures/evaluation.png the trend.

    Ranks share the images.
    """

    def __init__(self, cfg: EvaluationConfig, *, run_dir: Path, meter: StepMeter) -> None:
        self.cfg = cfg
        self.meter = meter
        self.folder = run_dir / "evaluate"
        self.picture = run_dir / "pictures" / "evaluation.png"
        self._measured_at = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse settings that a task cannot work with before anything is trained."""
        for name in self.cfg.tasks:
            try:
                # A task that fails at step 5,000 costs a night; its own check takes seconds.
                load_task(name).check(self._settings(pl_module))
            except UserError as error:
                raise UserError(f"callbacks.evaluate: {error}") from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the model as it is before the first step."""
        if trainer.global_step == 0:
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Measure at every `every`-th update; the last one is left to the end."""
        step = trainer.global_step
        if 0 < step < trainer.max_steps and step % self.cfg.every == 0:
            with self.meter.pause():
                self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the trained model."""
        if trainer.global_step > 0:
            self._measure(trainer, pl_module)
            if trainer.is_global_zero and self.picture.is_file():
                log.info("%s", self.picture)

    def _settings(self, pl_module: LightningModule) -> Any:
        cfg: Any = pl_module.cfg
        # No bootstrap: its intervals are not drawn over the steps.
        part = replace(cfg.eval, images=self.cfg.images, masks=self.cfg.masks, bootstrap=0)
        # NoC takes twice as many clicks as all else (`EvaluationConfig.tasks`).
        points = replace(cfg.points, first=["centre"], noc=[])
        return replace(cfg, eval=part, points=points)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if step == self._measured_at:
            return
        # A run may end, or resume, at a step that was measured already.
        self._measured_at = step
        with averaged(trainer, pl_module), trainer.precision_plugin.forward_context():
            sam = whole_sam(pl_module)
            training = sam.training
            run = Run(
                cfg=self._settings(pl_module),
                run_dir=self.folder,
                # Not from the environment: Lightning may have started the ranks itself.
                part=Share(index=trainer.global_rank, count=trainer.world_size),
                model=sam.eval(),
                source=f"step {step}",
                device=pl_module.device,
            )
            try:
                for name in self.cfg.tasks:
                    self._run(name, run, trainer)
            finally:
                sam.train(training)
        if trainer.is_global_zero:
            self.picture.parent.mkdir(parents=True, exist_ok=True)
            draw_trend(self.meter.recorder.file.path, self.picture)

    def _run(self, name: str, run: Any, trainer: Trainer) -> None:
        task = load_task(name)
        run_task(task, run, on_item=lambda: PULSE.beat("measuring"))
        # The rank that finished last has written the result.
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            figures = trend_figures(TaskResult.read(run.folder(task)).figures)
            told = {f"eval/{name}/{figure}": value for figure, value in figures.items()}
            self.meter.recorder.record(trainer, told)
            shown = "  ".join(f"{n}: {v:.3f}" for n, v in list(figures.items())[:_LINES])
            log.info("step %d  %s  %s", trainer.global_step, name, shown)


def trend_figures(figures: Mapping[str, Value]) -> dict[str, float]:
    """Select the figures worth a line over the steps: no counts, no ends of intervals."""
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, float) and not name.endswith(("_low", "_high"))
    }


def draw_trend(metrics: Path, out: Path) -> None:
    """Draw one panel per task with its figures over all data sets, by step.

    Args:
        metrics: a run's metrics.csv with columns `eval/TASK/NAME`; without any, nothing is drawn.
        out: the PNG to write.
    """
    columns = read_columns(metrics)
    found: dict[str, list[str]] = {}
    for column in (name for name in columns if name.startswith("eval/")):
        found.setdefault(column.split("/")[1], []).append(column)
    if not found:
        return
    figure = Figure(figsize=(6.5 * len(found), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (task, names) in zip(axes, found.items(), strict=True):
        # `eval/TASK/NAME` is over all data sets; more slashes are single data sets.
        whole = [name for name in names if name.count("/") == 2] or names
        for name in whole[:_LINES]:
            pairs = zip(columns["step"], columns[name], strict=True)
            kept = [(step, value) for step, value in pairs if math.isfinite(value)]
            axis.plot(*zip(*kept, strict=True), marker="o", label=name.split("/", 2)[2])
        axis.set(title=task, xlabel="step")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(out, dpi=100)
