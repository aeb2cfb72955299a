"""A run that is stopped, damaged or attacked goes on as if nothing had been, or says why not."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from sam_train.cli import main
from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores
from sam_train.model.load import load_sam
from sam_train.train.fit import fit
from sam_train.train.report.metrics_file import read_columns, read_rows

STEPS = 6
LEARNT = re.compile(r"step|loss|lr$|grad_norm|iou|predicted_iou|val/")
"""Columns of metrics.csv that no clock decides."""


@pytest.fixture(scope="module")
def settings(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Six steps of everything that draws: drop path, prompts, an average; two measurements."""
    shard = tiny.pack(tmp_path_factory.mktemp("shards") / "sa_000000.tar", tiny.good(5))
    return [
        *tiny.settings,
        *(f"data.train={shard}", f"data.val={shard}", f"trainer.max_steps={STEPS}"),
        *("callbacks.validation.images=2", "callbacks.validation.film_rows=0"),
        *("callbacks.validation.clicks=[1]", "callbacks.validation.every=4"),
        *("model.drop_path=0.1", "optim.warmup_steps=3", "optim.ema=0.5"),
        *("checkpoint.every_steps=0", "checkpoint.every_minutes=0", "checkpoint.keep_every=1"),
    ]


@pytest.fixture(scope="module")
def unbroken(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run_dir of a run that nobody stopped, with a checkpoint of every step."""
    run_dir = tmp_path_factory.mktemp("unbroken") / "run"
    fit([*settings, f"run_dir={run_dir}"])
    return run_dir


@pytest.fixture
def run_dir(unbroken: Path, tmp_path: Path) -> Path:
    """The same run, as if it had been killed behind its step 3."""
    copy = tmp_path / "run"
    shutil.copytree(unbroken, copy)
    checkpoints = copy / "checkpoints"
    for path in checkpoints.iterdir():
        if path.name not in ("step=1.ckpt", "step=2.ckpt", "step=3.ckpt"):
            path.unlink()
    os.link(checkpoints / "step=3.ckpt", checkpoints / "last.ckpt")
    return copy


def same(first: Any, second: Any) -> bool:
    """Bit for bit, whatever it is made of."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(v, second[k]) for k, v in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def assert_same_course(run_dir: Path, unbroken: Path) -> None:
    """Weights, average, moments, rates, generators and figures."""
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (run_dir, unbroken)
    )
    names = ("state_dict", "average", "optimizer_states", "lr_schedulers", "rng_states", "loops")
    for name in (*names, "global_step"):
        assert same(one[name], two[name]), name
    rows = [
        [{k: v for k, v in row.items() if LEARNT.match(k)} for row in read_rows(d / "metrics.csv")]
        for d in (run_dir, unbroken)
    ]
    assert rows[0] == rows[1]
    assert (run_dir / "scores_after.json").read_text() == (
        unbroken / "scores_after.json"
    ).read_text()


def test_a_continued_run_is_the_unbroken_one(
    settings: list[str], run_dir: Path, unbroken: Path
) -> None:
    fit([*settings, f"run_dir={run_dir}"])
    assert_same_course(run_dir, unbroken)
    assert "continuing" in (run_dir / "log.txt").read_text()


def test_a_damaged_checkpoint_costs_no_more_than_its_steps(
    settings: list[str], run_dir: Path, unbroken: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    last = run_dir / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    # In place: step=3.ckpt is the same file.
    with last.open("r+b") as file:
        file.write(data)
    fit([*settings, f"run_dir={run_dir}"])
    said = capfd.readouterr().out
    assert re.search(r"last\.ckpt is damaged \(.+\): going back to step=2\.ckpt, step 2", said)
    assert "not continued, renamed to *.old: step=3.ckpt" in said
    assert_same_course(run_dir, unbroken)


def lightning_format(path: Path) -> None:
    """Make of a checkpoint what was written before there was `engine.saving`: numbers for names,
    one group for encoder and decoder where both learn alike, nothing of ours but the model."""
    saved = torch.load(path, weights_only=True)
    (optimizer,), (schedule,) = saved["optimizer_states"], saved["lr_schedulers"]
    groups: dict[str, dict[str, Any]] = {}
    kept = []
    for k, group in enumerate(optimizer["param_groups"]):
        if group["name"] in groups:
            groups[group["name"]]["params"] += group["params"]
        else:
            groups[group["name"]] = group
            kept.append(k)
    names = [name for group in groups.values() for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    optimizer["state"] = {numbers[name]: value for name, value in optimizer["state"].items()}
    for group in groups.values():
        group["params"] = [numbers[name] for name in group["params"]]
    optimizer["param_groups"] = list(groups.values())
    for key in ("base_lrs", "_last_lr", "lr_lambdas"):
        schedule[key] = [schedule[key][k] for k in kept]
    for ours in ("run", "rng_states", "average"):
        del saved[ours]
    saved["callbacks"] = {
        "ModelCheckpoint{'monitor': None, 'mode': 'min', 'every_n_train_steps': 500}": {
            "monitor": None,
            "best_model_score": None,
            "best_model_path": str(path),
            "last_model_path": str(path),
            "dirpath": str(path.parent),
        }
    }
    path.unlink()
    torch.save(saved, path)


def test_a_checkpoint_of_the_days_before_goes_on(
    settings: list[str], run_dir: Path, unbroken: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (run_dir / "checkpoints").glob("step=*"):
        path.unlink()
    lightning_format(run_dir / "checkpoints" / "last.ckpt")
    fit([*settings, f"run_dir={run_dir}", "optim.ema=0"])
    one, two = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (run_dir, unbroken)
    )
    for name in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(one[name], two[name]), name
    said = capfd.readouterr()
    assert "Warning" not in said.err


def test_what_differs_is_said_with_what_comes_of_it(
    settings: list[str], run_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit([*settings, f"run_dir={run_dir}", "seed=3", "optim.lr=0.5", "checkpoint.keep_best=2"])
    said = capfd.readouterr().out
    assert re.search(r"^seed +0 +3 +from here on$", said, re.MULTILINE)
    assert re.search(r"^optim\.lr .* 0\.5 +none: the checkpoint's value goes on$", said, re.M)
    assert "with no effect on what is learnt: checkpoint.keep_best" in said
    rates = read_columns(run_dir / "metrics.csv")["lr"]
    assert max(rates[1:]) < 0.01


def test_another_model_is_refused_in_one_line(
    settings: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *settings, f"run_dir={run_dir}", "model.depth=2", "model.global_blocks=[1]"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    differs = r"\(sam\.image_encoder\.blocks\.0\.\S+ is \(.*\) in it, \(.*\) here\)"
    assert re.search(rf"last\.ckpt is of another model {differs}: set model=", line)


class Rude:
    """A pickle that does something when it is loaded."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.trap),))


@pytest.mark.parametrize("verb", ["resume=", "init_from=", "ckpt=", "auto"])
def test_code_in_a_checkpoint_is_never_run(
    settings: list[str], run_dir: Path, tmp_path: Path, verb: str
) -> None:
    trap, last = tmp_path / "ran", run_dir / "checkpoints" / "last.ckpt"
    bad = tmp_path / "bad.ckpt"
    saved = torch.load(last, weights_only=True)
    torch.save(saved | {"callbacks": Rude(trap)}, bad)
    if verb == "auto":
        for path in (run_dir / "checkpoints").glob("*.ckpt"):
            bad.replace(path) if path == last else path.unlink()
        words = ["fit", f"run_dir={run_dir}"]
    else:
        words = ["validate" if verb == "ckpt=" else "fit", f"{verb}{bad}"]
        words.append(f"run_dir={tmp_path / 'other'}")
    with pytest.raises(SystemExit) as ended:
        main([words[0], *settings, *words[1:]])
    assert ended.value.code == 2
    assert not trap.exists()


def test_the_average_is_what_is_measured_and_handed_on(
    settings: list[str], unbroken: Path, tmp_path: Path
) -> None:
    saved = torch.load(unbroken / "checkpoints" / "last.ckpt", weights_only=True)
    sam = load_sam(unbroken / "checkpoints" / "last.ckpt")
    for name, weight in sam.named_parameters():
        assert torch.equal(weight, saved["average"][f"sam.{name}"])
    assert any(
        not torch.equal(saved["average"][name], saved["state_dict"][name])
        for name in saved["average"]
    )
    assert saved["average"].keys() < saved["state_dict"].keys()
    words = ["ckpt=" + str(unbroken / "checkpoints" / "last.ckpt"), f"run_dir={tmp_path}"]
    main(["validate", *settings, *words, "data.val_images=2"])
    again = ClickScores.from_json((tmp_path / "scores.json").read_text())
    after = ClickScores.from_json((unbroken / "scores_after.json").read_text())
    assert again.miou == pytest.approx(after.miou, abs=1e-6)


def test_newest_best_and_permanent_ones_stay(settings: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    choice = ["keep_every=3", "keep_last=1", "keep_best=1", "every_minutes=1e-9"]
    often = "callbacks.validation.every=2"
    fit([*settings, *(f"checkpoint.{word}" for word in choice), often, f"run_dir={run_dir}"])
    columns = read_columns(run_dir / "metrics.csv")
    scores = dict(zip(columns["step"], columns["val/miou_1"], strict=True))
    measured = {step: score for step, score in scores.items() if step and not math.isnan(score)}
    assert len(measured) == 3
    best = max((score, step) for step, score in measured.items())[1]
    expected = {f"step={int(step)}.ckpt" for step in (3, STEPS, best)} | {"last.ckpt"}
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == expected


def test_out_of_time_under_slurm(settings: list[str], tmp_path: Path) -> None:
    """SIGUSR1, as `sbatch --signal=USR1@120` sends it: saved, requeued, and it goes on."""
    run_dir, called = tmp_path / "run", tmp_path / "called"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    scontrol.chmod(0o755)
    environment = {"SLURM_JOB_ID": "12", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = [*settings, f"run_dir={run_dir}", "checkpoint.keep_every=0", "trainer.max_steps=100000"]
    run = subprocess.Popen(
        [forked.python(), "-m", "sam_train", "fit", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    end = time.monotonic() + 300
    while len(read_rows(run_dir / "metrics.csv")) < 3:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    run.send_signal(signal.SIGUSR1)
    _, errors = run.communicate(timeout=300)
    assert (run.returncode, errors) == (75, "")
    assert called.read_text().strip() == "requeue 12"
    rows = read_rows(run_dir / "metrics.csv")
    reached = int(rows[-1]["step"])
    saved = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == reached
    said = (run_dir / "log.txt").read_text()
    assert f"SIGUSR1: saved at step {reached}; the same command goes on" in said
    fit([*words, f"trainer.max_steps={reached + 1}"])
    assert int(read_rows(run_dir / "metrics.csv")[-1]["step"]) == reached + 1


def test_a_run_dir_of_weights_alone_is_refused(settings: list[str], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"holds no training state .*weights alone go to init_from"):
        fit([*settings, f"run_dir={tmp_path}"])
