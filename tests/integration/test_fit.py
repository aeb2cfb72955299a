"""`python -m sam_train fit` as people run it: one process, two, loggers, debugging, resume."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from sam_train.train.fit import fit
from sam_train.train.report.metrics_file import read_columns, read_rows

REPOSITORY = Path(__file__).resolve().parents[2]

SMALL = [
    "callbacks.validation.images=2",
    "callbacks.validation.film_rows=1",
    "callbacks.validation.clicks=[1,2]",
]


@pytest.fixture(scope="module")
def shards(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.pack(tmp_path_factory.mktemp("fit") / "sa_000000.tar", tiny.good(4))


@pytest.fixture
def settings(tiny: Any, shards: Path, tmp_path: Path) -> list[str]:
    """A run of seconds, after +experiment=quickstart."""
    return [
        "+experiment=quickstart",
        *tiny.settings,
        *SMALL,
        f"data.train={shards}",
        f"data.val={shards}",
        f"run_dir={tmp_path / 'run'}",
    ]


def run(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [forked.python(), "-m", "sam_train", "fit", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    return saved["state_dict"]


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_one_process_leaves_all_that_the_readme_says(settings: list[str], tmp_path: Path) -> None:
    done = run(settings)
    assert done.stderr == ""
    run_dir = tmp_path / "run"
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints", "pictures", "log.txt"} <= names
    assert "max_steps: 2" in (run_dir / "config.yaml").read_text()
    assert [row["step"] for row in read_rows(run_dir / "metrics.csv")] == ["0", "1", "2"]
    assert {p.name for p in (run_dir / "checkpoints").iterdir()} == {"last.ckpt", "step=2.ckpt"}
    pictures = {p.name for p in (run_dir / "pictures").iterdir()}
    assert {"curves.png", "calibration.png", "clicks_0000002.png"} <= pictures
    for line in ("step 2/2", "untrained", "trained", "clicks_0000002.png"):
        assert line in done.stdout
        assert line in (run_dir / "log.txt").read_text()


def test_two_processes_train_like_one(settings: list[str], tmp_path: Path) -> None:
    both = run(
        [*settings, "trainer.devices=2", "trainer.strategy=ddp", f"run_dir={tmp_path / 'two'}"]
    )
    fit(settings)
    rows = read_rows(tmp_path / "two" / "metrics.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert len(re.findall("untrained", both.stdout)) == 1
    assert "GLOBAL_RANK" not in both.stderr
    one, two = (read_columns(tmp_path / name / "metrics.csv") for name in ("run", "two"))
    assert two["loss"][1:] == pytest.approx(one["loss"][1:], rel=1e-3)
    assert two["grad_norm"][1:] == pytest.approx(one["grad_norm"][1:], rel=1e-2)
    a, b = weights(tmp_path / "run"), weights(tmp_path / "two")
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-3


def test_a_resumed_run_is_the_unbroken_one(settings: list[str], tmp_path: Path) -> None:
    """6 steps, and 3 + 3: bitwise the same weights."""
    # Rates and rounds that do not know where the run ends, so that 3 steps of 3 are 3 of 6.
    common = [*settings, "optim.schedule=step", "optim.milestones=[]", "prompts.curriculum=[]"]
    fit([*common, "trainer.max_steps=6", f"run_dir={tmp_path / 'unbroken'}"])
    fit([*common, "trainer.max_steps=3"])
    fit([*common, "trainer.max_steps=6", "resume=auto"])
    assert same(tmp_path / "unbroken", tmp_path / "run")
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert [row["step"] for row in rows] == [str(step) for step in range(7)]

    third = tmp_path / "unbroken" / "checkpoints" / "last.ckpt"
    fit([*common, "trainer.max_steps=7", f"resume={third}", f"run_dir={tmp_path / 'path'}"])
    assert "step=7.ckpt" in {p.name for p in (tmp_path / "path" / "checkpoints").iterdir()}


def test_the_last_step_is_saved_and_a_finished_run_says_so(
    settings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = [*settings, "trainer.max_steps=3", "checkpoint.every_steps=2"]
    fit(common)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    before = capfd.readouterr().out
    fit(common)
    after = capfd.readouterr().out
    assert "already trained" in after
    table = re.compile(r"^(untrained|trained) .*$", re.MULTILINE)
    assert table.findall(after)
    assert [m[0] for m in table.finditer(after)] == [m[0] for m in table.finditer(before)]
    first = weights(tmp_path / "run")
    fit([*common, "resume=never", "seed=1"])
    assert "already trained" not in capfd.readouterr().out
    again = weights(tmp_path / "run")
    assert any(not torch.equal(first[name], again[name]) for name in first)


def test_a_run_that_learns_nothing_ends_early_and_stays_ended(
    settings: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = [*settings, "trainer.max_steps=4", "callbacks.validation.every=1"]
    # No weight is so small that such a rate moves it.
    common += ["optim.name=adamw", "optim.lr=1e-30"]
    fit([*common, "checkpoint.patience=2"])
    said = capfd.readouterr().out
    assert "ended at step 2: 2 measurements brought no better val/miou_1" in said
    assert re.search(r"^trained ", said, re.MULTILINE)
    metrics = tmp_path / "run" / "metrics.csv"
    assert [row["step"] for row in read_rows(metrics)] == ["0", "1", "2"]
    fit([*common, "checkpoint.patience=2"])
    said = capfd.readouterr().out
    assert "ended at step 2" in said
    assert "already trained" in said
    assert [row["step"] for row in read_rows(metrics)] == ["0", "1", "2"]
    fit([*common, "checkpoint.patience=5"])
    assert [row["step"] for row in read_rows(metrics)] == ["0", "1", "2", "3", "4"]


def test_tensorboard_and_offline_wandb(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit([*settings, "logger=tensorboard", "logger.wandb=true", "data.val="])
    run_dir = tmp_path / "run"
    assert list((run_dir / "tensorboard").rglob("events.out.tfevents.*"))
    assert list((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    assert (run_dir / "metrics.csv").is_file()


def test_the_wheel_carries_the_recipes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the wheel is built with hatchling")
    command = [sys.executable, "-m", "pip", "wheel", str(REPOSITORY), "--no-deps"]
    subprocess.run(
        [*command, "--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    conf = REPOSITORY / "conf"
    for path in conf.rglob("*.yaml"):
        assert f"sam_train/conf/{path.relative_to(conf).as_posix()}" in names
    done = subprocess.run(
        [sys.executable, "-m", "sam_train", "fit", "+experiment=vit_b", "--cfg", "job"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path / "installed",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
    )
    assert "name: vit_b" in done.stdout
