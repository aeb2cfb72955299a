"""The progress bar on a terminal, and lines in its place where the output goes to a file."""

from __future__ import annotations

import logging
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich import get_console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from sam_train.train.report.config import ProgressConfig
from sam_train.train.report.meter import StepFigures, StepMeter

log = logging.getLogger("sam_train")


class TrainingProgress(ProgressBar):
    """A bar of loss, IoU after first and last round, images/s, waiting for data, and time left.

    It shows the figures of `StepMeter`, and so never waits for the device itself.
    """

    def __init__(self, cfg: ProgressConfig, meter: StepMeter) -> None:
        super().__init__()
        self.cfg = cfg
        self.meter = meter
        self._enabled = True
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown: StepFigures | None = None
        self._last_line = 0.0
        self._pace: float | None = None

    def enable(self) -> None:
        """Show the bar (Lightning's switch)."""
        self._enabled = True

    def disable(self) -> None:
        """Hide the bar; Lightning calls it on all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        console = get_console()
        if self._enabled and self.cfg.bar and console.is_terminal and not console.is_dumb_terminal:
            # rich, on the console of the log: lines of the log then move above the bar.
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                console=console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(
                "first step", total=trainer.max_steps, completed=trainer.global_step
            )
            self._bar.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advance the bar, and show new figures on logging steps."""
        if not self._enabled:
            return
        figures = self.meter.latest
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=trainer.global_step)
        if figures is None or figures is self._shown:
            return
        self._shown = figures
        # Smoothed, because the pace of a few steps jumps and the time left should not.
        pace = figures.seconds_per_step
        self._pace = pace if self._pace is None else 0.7 * self._pace + 0.3 * pace
        text = describe(figures, seconds_left=(trainer.max_steps - figures.step) * self._pace)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
            return
        now = time.monotonic()
        # The last line always, whatever the pause: it is the one that people look for.
        last = figures.step >= trainer.max_steps
        if last or self._last_line == 0.0 or now - self._last_line >= self.cfg.line_seconds:
            self._last_line = now
            log.info("step %d/%d  %s", figures.step, trainer.max_steps, text)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar and leave it on the screen."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before the error's message is printed."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(figures: StepFigures, *, seconds_left: float) -> str:
    """Format a line: `loss 0.831  IoU 0.41 > 0.62  38.2 images/s  data 3 %  12:31 left`."""
    iou = figures.rounds.iou
    skipped = f"{figures.skipped} skipped  " if figures.skipped else ""
    return (
        f"loss {figures.loss:.3f}  IoU {iou[0]:.2f} > {iou[-1]:.2f}  "
        f"{figures.images_per_second:.3g} images/s  data {100 * figures.data_wait:.0f} %  "
        f"{skipped}{duration(seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """Format seconds as 0:07, 12:31, 3:05:00 or 2 d 04:11."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    # Days: 61:07:00 is hard to read as two and a half.
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
