"""Runs that fall ill, for real: two processes, NaNs, sleep, a stopped process, no memory."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from sam_train.train.report.metrics_file import read_columns

ILL_FIT = Path(__file__).with_name("ill_fit.py")


@pytest.fixture(scope="module")
def shard(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.pack(tmp_path_factory.mktemp("health") / "sa_000000.tar", tiny.good(4))


@pytest.fixture
def settings(tiny: Any, shard: Path, tmp_path: Path) -> list[str]:
    return [*tiny.settings, f"data.train={shard}", f"run_dir={tmp_path / 'run'}"]


TWO = ["trainer.devices=2", "trainer.strategy=ddp"]


def start(faults: str, settings: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [forked.python(), str(ILL_FIT), faults, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def run(faults: str, settings: Sequence[str]) -> subprocess.CompletedProcess[str]:
    process = start(faults, settings)
    out, err = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def saved(run_dir: Path, step: int) -> dict[str, Any]:
    path = run_dir / "checkpoints" / f"step={step}.ckpt"
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [tensor for part in parts for tensor in tensors(part)]


def same(a: Any, b: Any) -> bool:
    first, second = tensors(a), tensors(b)
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "deepspeed"])
def test_one_ranks_nan_skips_the_update_on_both(
    strategy: str, settings: list[str], tmp_path: Path
) -> None:
    """Updates 2 (a loss of rank 1) and 4, 5 (a gradient of rank 0); two in a row are the end."""
    done = run(
        "loss@1:1,slow@1:2,gradient@0:3+4",
        [
            *(*settings, *TWO[:1], f"trainer.strategy={strategy}"),
            *("trainer.max_steps=8", "health.max_nonfinite=2"),
            *("checkpoint.every_steps=1", "checkpoint.keep_last=9"),
        ],
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "2 updates in a row were skipped" in done.stderr
    assert "Traceback" not in done.stderr
    run_dir = tmp_path / "run"

    first, second, third, fourth = (saved(run_dir, step) for step in (1, 2, 3, 4))
    for part in ("state_dict", "optimizer_states"):
        assert same(first[part], second[part])
        assert not same(second[part], third[part])
        assert same(third[part], fourth[part])
    # A skipped update is a step: schedule and data go on.
    assert second["global_step"] == 2
    assert second["SamDataModule"]["position"] == 4
    metrics = read_columns(run_dir / "metrics.csv")
    assert metrics["skipped"] == [0.0, 1.0, 1.0, 2.0]
    assert metrics["slowest_rank"][2] == 1
    assert metrics["slowest_rank_share"][2] > 1.25
    ranks = (run_dir / "ranks.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in ranks[1:]] == [
        [rank, socket.gethostname()] for rank in "01"
    ]

    study = json.loads((run_dir / "nonfinite" / "step=2.json").read_text())
    healthy, ill = study["ranks"]
    assert [len(healthy["keys"]), len(ill["keys"])] == [1, 1]
    assert set(healthy["keys"]).isdisjoint(ill["keys"])
    assert len(ill["mask_ids"]) == 2
    assert ill["loss_by_round"] == ["nan", "nan"]
    assert all(isinstance(loss, float) for loss in healthy["loss_by_round"])
    assert "rank 1" in done.stdout
    study = json.loads((run_dir / "nonfinite" / "step=5.json").read_text())
    assert study["in_a_row"] == 2
    names = [record["nonfinite_gradients"] for record in study["ranks"]]
    # DeepSpeed has put the gradients away before anybody else could look at them.
    spoilt = [] if strategy == "deepspeed" else ["sam.mask_decoder.iou_token.weight"]
    assert names == [spoilt] * 2
    assert not (run_dir / "nonfinite" / "step=6.json").exists()


HANG = ["trainer.max_steps=50", "health.hang_minutes=0.05", "callbacks.progress.line_seconds=0"]


def test_a_rank_that_sleeps_is_named_with_its_stack(settings: list[str], tmp_path: Path) -> None:
    done = run("sleep@1:2", [*settings, *TWO, *HANG])
    assert done.returncode not in (0, 2)
    (line,) = [line for line in done.stderr.splitlines() if "hangs" in line]
    assert line.startswith("error: the run hangs")
    assert "rank 1" in line
    assert "rank 0" not in line
    assert "behind step 2, forward" in line
    assert "ill_losses" in line
    folder = tmp_path / "run" / "hang"
    assert "else 3600)" in (folder / "rank=1.txt").read_text()
    assert "else 3600)" not in (folder / "rank=0.txt").read_text()
    assert "behind step 2" in (folder / "rank=0.txt").read_text()
    assert line.removeprefix("error: ") in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_is_named_by_the_other(
    rank: int, settings: list[str], tmp_path: Path
) -> None:
    """No thread of it runs any more, so the other one says it, and ends both."""
    process = start("", [*settings, *TWO, "trainer.max_steps=100000", *HANG[1:]])
    pid = pid_of(rank, tmp_path / "run", process)
    os.kill(pid, signal.SIGSTOP)
    try:
        _, err = process.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode not in (0, 2)
    (line,) = [line for line in err.splitlines() if "hangs" in line]
    assert f"rank {rank} ({socket.gethostname()}) is stopped by a signal (pid {pid})" in line
    assert "last seen behind step" in line
    assert line.removeprefix("error: ") in (tmp_path / "run" / "log.txt").read_text()
    assert "thread MainThread" in (tmp_path / "run" / "hang" / f"rank={1 - rank}.txt").read_text()
    assert "last seen in" in (tmp_path / "run" / "hang" / f"rank={rank}.txt").read_text()


def pid_of(rank: int, run_dir: Path, process: subprocess.Popen[str]) -> int:
    """Of a rank that has trained some steps."""
    beat = run_dir / "beats" / f"rank={rank}.json"
    while process.poll() is None:
        time.sleep(0.2)
        with suppress(OSError, ValueError):
            content = json.loads(beat.read_text())
            if content["step"] >= 2:
                return int(content["pid"])
    raise AssertionError(process.communicate())


def test_out_of_memory_names_what_would_fit(settings: list[str]) -> None:
    """And it does: under the same limit."""
    big = ["model.image_size=512", "data.batch_size=4", "data.masks_per_image=2"]
    done = run("memory@0:0", [*settings, *big])
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("error: out of memory on rank 0 behind step ")
    assert "4 image(s) of 2 masks" in lines[0]
    words, _, rest = lines[1].partition(": ")
    assert words == "would fit, as plan counts"
    assert rest.startswith("trainer.accumulate="), rest
    again = run("memory@0:0", [*settings, *big, rest.partition(" (")[0]])
    assert again.returncode == 0, again.stderr
