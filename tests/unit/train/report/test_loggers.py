"""TensorBoard's and W&B's runs go on where the run itself goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sam_train.errors import UserError
from sam_train.train.checkpoints.resume import Found
from sam_train.train.config import LoggerConfig
from sam_train.train.report.loggers import WANDB_RECORD, open_loggers, tensorboard_folder, wandb_id

TENSORBOARD, WANDB = LoggerConfig(tensorboard=True), LoggerConfig(wandb=True)


def found(step: int, **run: Any) -> Found:
    return Found(path=Path("x.ckpt"), outline={"global_step": step, "run": run})


def opened(run_dir: Path, cfg: LoggerConfig, *, at: Found | None, resume: str = "auto") -> Any:
    return open_loggers(cfg, run_dir=run_dir, name="n", config={"a": 1}, resume=resume, found=at)


def write(run_dir: Path, steps: range, value: float, **how: Any) -> None:
    with opened(run_dir, TENSORBOARD, **how) as loggers:
        for step in steps:
            loggers.all[0].log_metrics({"loss": value}, step=step)
        loggers.all[0].finalize("success")


def read(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    write(tmp_path, range(1, 8), 1.0, at=None)
    # Killed behind step 7, continued from the checkpoint of step 4.
    write(tmp_path, range(5, 10), 2.0, at=found(4))
    assert read(folder) == [(s, 1.0) for s in range(1, 5)] + [(s, 2.0) for s in range(5, 10)]
    write(tmp_path, range(1, 3), 3.0, at=None, resume="never")
    assert read(folder / "version_1") == [(1, 3.0), (2, 3.0)]
    assert len(read(folder)) == 9
    write(tmp_path, range(3, 4), 4.0, at=found(2))
    assert read(folder / "version_1") == [(1, 3.0), (2, 3.0), (3, 4.0)]
    assert tensorboard_folder(folder, fresh=True) == folder / "version_2"


def test_which_wandb_run_goes_on(tmp_path: Path) -> None:
    of_checkpoint = found(3, wandb_id="fromckpt")
    new = wandb_id(tmp_path, resume="auto", found=None)
    assert len(new) == 8
    assert wandb_id(tmp_path, resume="auto", found=None) != new
    # A run that was moved without its folder.
    assert wandb_id(tmp_path, resume="auto", found=of_checkpoint) == "fromckpt"
    assert len(wandb_id(tmp_path, resume="auto", found=found(3))) == 8
    (tmp_path / WANDB_RECORD).write_text("ofrundir\n")
    assert wandb_id(tmp_path, resume="auto", found=of_checkpoint) == "ofrundir"
    assert wandb_id(tmp_path, resume="auto", found=None) == "ofrundir"
    assert wandb_id(tmp_path, resume="never", found=None) not in ("ofrundir", "fromckpt")


def test_wandb_offline_goes_on_under_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    numbers = []
    for at in (None, found(3)):
        with opened(tmp_path, WANDB, at=at) as loggers:
            loggers.all[0].log_metrics({"loss": 1.0}, step=7)
            assert loggers.all[0].experiment.step == 7
            numbers.append(loggers.record[WANDB_RECORD])
        assert (tmp_path / WANDB_RECORD).read_text() == f"{numbers[0]}\n"
    assert numbers[0] == numbers[1]
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert folders
    # W&B adds -1 to a folder of the same second.
    assert all(re.search(rf"-{numbers[0]}(-\d+)?$", name) for name in folders)


def test_wandb_without_an_account_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    with pytest.raises(UserError, match=r"no API key here.*WANDB_MODE=offline") as error:
        opened(tmp_path, WANDB, at=None).__enter__()
    assert "\n" not in str(error.value)
    # A key that cannot be one is W&B's to refuse.
    monkeypatch.setenv("WANDB_API_KEY", "short")
    wandb.teardown()
    with pytest.raises(UserError, match="logger=wandb: ") as error:
        opened(tmp_path, WANDB, at=None).__enter__()
    assert "\n" not in str(error.value)
    assert not (tmp_path / WANDB_RECORD).exists()
    monkeypatch.undo()
    wandb.teardown()
