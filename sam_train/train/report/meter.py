"""Measures training steps: per-round figures, speed, waiting for data, rate, gradient norm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sam_train.train.records import RoundFigures
from sam_train.train.report.metrics_file import MetricsFile
from sam_train.train.watch.nonfinite import NonfiniteWatch
from sam_train.train.watch.ranks import RankFigures, RankWatch
from sam_train.types import Batch


@dataclass(slots=True, kw_only=True)
class StepFigures:
    """The figures of a logging step; the progress bar shows them."""

    step: int
    """Finished updates."""
    rounds: RoundFigures
    loss: float
    """Mean over the rounds."""
    images_per_second: float
    """Rate over all ranks since the last logging step, without validation and checkpoints."""
    data_wait: float
    """Share of the same time in which this process waited for the next batch, 0 to 1."""
    seconds_per_step: float
    skipped: int = 0
    """Updates skipped since the run's beginning because they were not finite."""
    ranks: RankFigures | None = None
    """The slowest process, where there are several."""


class Recorder(Callback):
    """The way of figures to metrics.csv, which is always written, and to the chosen loggers.

    It stands before every callback that records at the start of training.
    """

    def __init__(self, run_dir: Path) -> None:
        self.file = MetricsFile(run_dir / "metrics.csv")
        self.latest: dict[str, float] = {}
        """The figures of the newest step, and `step` (first process only)."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin metrics.csv, or resume that of the earlier run."""
        if trainer.is_global_zero:
            self.file.resume_at(trainer.global_step)

    def record(self, trainer: Trainer, values: Mapping[str, float]) -> None:
        """Record figures of the step that was just finished (first process only)."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        # Several callbacks record figures of one step; the Saver looks for its metric in all of
        # them.
        known = self.latest if self.latest.get("step") == step else {"step": step}
        self.latest = {**known, **values}
        self.file.write(step, values)
        # TensorBoard and W&B group by the part before the slash.
        named = {name if "/" in name else f"train/{name}": v for name, v in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=step)


class StepMeter(Callback):
    """The measure of training steps; it reads values back from the device on logging steps only.

    It stands behind every callback that takes long between two steps. Those work within `pause`, so
    that neither waiting for data nor speed counts them.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        log_every: int,
        nonfinite: NonfiniteWatch | None = None,
        ranks: RankWatch | None = None,
    ) -> None:
        self.recorder = recorder
        self.nonfinite = nonfinite
        self.ranks = ranks
        self.log_every = log_every
        self.latest: StepFigures | None = None
        self._last_step = -1
        self._batch_ended = self._batch_began = time.perf_counter()
        self._busy = self._waited = 0.0
        self._images = self._updates = 0
        self._gap_counts = False
        self._rates: dict[str, float] = {}

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out of all figures the time spent inside, in `on_train_batch_end`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            # The step's beginning moves by as much.
            self._batch_began += time.perf_counter() - began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._last_step = trainer.global_step
        if self.ranks is not None:
            self.ranks.start()
        self._restart()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Count the gap since the step before as waiting for data."""
        # Read before the update, after which Lightning sets the rates of the next one.
        self._rates = _rates(trainer)
        self._batch_began = time.perf_counter()
        if self._gap_counts:
            self._waited += self._batch_began - self._batch_ended

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave out this gap: writing a checkpoint fills it."""
        self._gap_counts = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the step; on a logging step, read, record and start anew."""
        # The ranks' batches are of one size, so no rank is asked.
        self._images += batch.images.shape[0] * trainer.world_size
        step = trainer.global_step
        if step != self._last_step:
            self._updates += 1
            self._last_step = step
            if self._is_logged(trainer, step):
                self._log(trainer, pl_module, step)
        now = time.perf_counter()
        self._busy += now - self._batch_began
        self._batch_ended = now
        self._gap_counts = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how the processes compared."""
        if self.ranks is not None:
            self.ranks.summarise()

    def _is_logged(self, trainer: Trainer, step: int) -> bool:
        # The first step too: it shows at once that the run works.
        return step % self.log_every == 0 or step in (1, trainer.max_steps)

    def _log(self, trainer: Trainer, pl_module: LightningModule, step: int) -> None:
        # Other modules than ours can be measured, too; they have no rounds.
        log = getattr(pl_module, "last_rounds", None)
        if log is None:
            return
        rounds: RoundFigures = log.figures()
        # Reading the figures above waited for the device, so the clock shows work that is done.
        elapsed = time.perf_counter() - self._batch_began + self._busy + self._waited
        self.latest = StepFigures(
            step=step,
            rounds=rounds,
            loss=sum(rounds.loss) / len(rounds.loss),
            images_per_second=self._images / elapsed,
            data_wait=self._waited / elapsed,
            seconds_per_step=elapsed / max(self._updates, 1),
            skipped=self.nonfinite.skipped if self.nonfinite is not None else 0,
            ranks=self._compare(pl_module, data_wait=self._waited / elapsed),
        )
        self.recorder.record(trainer, self._values(trainer, pl_module, self.latest))
        self._restart()
        self._batch_began = time.perf_counter()

    def _values(
        self, trainer: Trainer, pl_module: LightningModule, figures: StepFigures
    ) -> dict[str, float]:
        values = {
            "loss": figures.loss,
            **self._rates,
            "images_per_second": figures.images_per_second,
            "data_wait": figures.data_wait,
            "skipped": figures.skipped,
        }
        if figures.ranks is not None:
            values |= figures.ranks.columns()
        if (norm := getattr(pl_module, "last_grad_norm", None)) is not None:
            # Waits for the device; only logging steps come here.
            values["grad_norm"] = float(norm)
        if (scaling := getattr(pl_module, "loss_scale", None)) is not None:
            values["loss_scale"] = float(scaling.used)
        rounds = figures.rounds
        by_round = {"loss": rounds.loss, "iou": rounds.iou, "predicted_iou": rounds.predicted_iou}
        by_round |= {f"loss_{name}": term for name, term in rounds.terms.items()}
        for name, of_rounds in by_round.items():
            for r, value in zip(rounds.numbers, of_rounds, strict=True):
                values[f"{name}_r{r:02d}"] = value
        return values

    def _compare(self, pl_module: LightningModule, *, data_wait: float) -> RankFigures | None:
        stopwatch = getattr(pl_module, "stopwatch", None)
        if self.ranks is None or stopwatch is None:
            return None
        # A collective follows, so every rank calls it at the same steps.
        work = stopwatch.read()
        return self.ranks.look(work=work, data_wait=data_wait)

    def _restart(self) -> None:
        self._busy = self._waited = 0.0
        self._images = self._updates = 0


def _rates(trainer: Trainer) -> dict[str, float]:
    """Return `lr`, the highest rate of AdamW's groups, and `muon_lr` where Muon has groups."""
    groups = trainer.optimizers[0].param_groups
    muon = [group["lr"] for group in groups if "momentum" in group]
    adamw = [group["lr"] for group in groups if "momentum" not in group]
    found = {"lr": adamw, "muon_lr": muon}
    # The highest is that of the last layer; the others decay from it by depth.
    return {name: float(max(rates)) for name, rates in found.items() if rates}
