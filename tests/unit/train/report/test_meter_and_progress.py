"""Speed and waiting on a clock that the test turns, and how they are shown."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from sam_train.train.records import RoundFigures, RoundLog
from sam_train.train.report import meter as meter_module
from sam_train.train.report import progress as progress_module
from sam_train.train.report.meter import Recorder, StepFigures, StepMeter
from sam_train.train.report.progress import (
    ProgressConfig,
    TrainingProgress,
    describe,
    duration,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_waiting_is_the_gap_between_steps_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    recorder = Recorder(tmp_path)
    meter = StepMeter(recorder, log_every=4)
    trainer: Any = SimpleNamespace(
        global_step=10, world_size=2, max_steps=100, is_global_zero=True, loggers=[],
        optimizers=[SimpleNamespace(
            param_groups=[{"lr": 1e-4}, {"lr": 5e-4}, {"lr": 5e-3, "momentum": 0.9}]
        )],
    )  # fmt: skip
    log = RoundLog(
        sums=[torch.tensor([4.0, 1.0, 1.2, 2.0, 0.5]), torch.tensor([2.0, 1.5, 1.0, 2.0, 0.25])],
        numbers=[0, 1],
        names=["focal"],
    )
    module: Any = SimpleNamespace(last_rounds=log, last_grad_norm=torch.tensor(3.0))
    batch: Any = SimpleNamespace(images=torch.zeros(3, 1))
    recorder.on_train_start(trainer, module)
    meter.on_train_start(trainer, module)
    for step, gap, paused, saves in ((11, 50, 0, False), (12, 1, 7, True)):
        clock.now += gap  # before the first step it is start-up, not waiting
        meter.on_train_batch_start(trainer, module, batch, 0)
        clock.now += 3
        trainer.global_step = step
        if step == 12:  # the schedule goes on before the batch ends
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = 1.0
        with meter.pause():
            clock.now += paused
        meter.on_train_batch_end(trainer, module, None, batch, 0)
        if saves:
            meter.on_save_checkpoint(trainer, module, {})
    assert meter.latest is not None
    assert meter.latest.images_per_second == pytest.approx(2 * 2 * 3 / 7)
    assert meter.latest.data_wait == pytest.approx(1 / 7)
    assert meter.latest.seconds_per_step == pytest.approx(7 / 2)
    for gap in (40, 2):  # a checkpoint was written in the first of these
        clock.now += gap
        meter.on_train_batch_start(trainer, module, batch, 0)
        clock.now += 4
        trainer.global_step += 1
        meter.on_train_batch_end(trainer, module, None, batch, 0)
    trainer.global_step = 16
    clock.now += 2
    meter.on_train_batch_start(trainer, module, batch, 0)
    clock.now += 4
    meter.on_train_batch_end(trainer, module, None, batch, 0)
    assert meter.latest.step == 16
    assert meter.latest.data_wait == pytest.approx(4 / 16)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["12", "16"]
    assert (float(rows[0]["lr"]), float(rows[0]["muon_lr"])) == (5e-4, 5e-3)
    assert float(rows[0]["grad_norm"]) == 3
    assert [float(rows[0][f"loss_r{r:02d}"]) for r in (0, 1)] == [2, 1]
    assert [float(rows[0][f"loss_focal_r{r:02d}"]) for r in (0, 1)] == [0.25, 0.125]
    assert [float(rows[0][f"iou_r{r:02d}"]) for r in (0, 1)] == [0.5, 0.75]
    assert [float(rows[0][f"predicted_iou_r{r:02d}"]) for r in (0, 1)] == [0.6, 0.5]


FIGURES = StepFigures(
    step=40,
    rounds=RoundFigures(
        numbers=[0, 1, 2],
        loss=[1.0, 0.8, 0.662],
        iou=[0.41, 0.5, 0.62],
        predicted_iou=[0.4, 0.5, 0.6],
        terms={},
    ),
    loss=0.831,
    images_per_second=38.21,
    data_wait=0.034,
    seconds_per_step=2.0,
)


def test_one_line_says_it_all() -> None:
    assert describe(FIGURES, seconds_left=751) == (
        "loss 0.831  IoU 0.41 > 0.62  38.2 images/s  data 3 %  12:31 left"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0:00"), (7.4, "0:07"), (751, "12:31"), (11100, "3:05:00"), (188000, "2 d 04:13")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_bar_of_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)
    monkeypatch.setattr(progress_module, "get_console", lambda: console)
    monkeypatch.setenv("TERM", "xterm")
    meter = StepMeter(Recorder(tmp_path), log_every=1)
    bar = TrainingProgress(ProgressConfig(), meter)
    trainer: Any = SimpleNamespace(global_step=0, max_steps=100)
    bar.on_train_start(trainer, trainer)
    trainer.global_step, meter.latest = 40, FIGURES
    bar.on_train_batch_end(trainer, trainer, None, None, 0)
    bar.on_train_end(trainer, trainer)
    shown = screen.getvalue()
    assert "step 40/100" in shown
    assert "IoU 0.41 > 0.62" in shown
    assert "2:00 left" in shown
