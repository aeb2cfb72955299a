"""The pre-flight for real, with two processes: what is wrong is named, nothing waits for ever."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest
from http_server import Behaviour, HostileServer

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def start(
    words: list[str], *, cwd: Path, fresh: bool = False, **environment: str
) -> subprocess.Popen[str]:
    """A process of the pre-flight; a fresh one reads variables before it imports torch."""
    kept = {k: v for k, v in os.environ.items() if k not in LAUNCHERS and not k.startswith("SLURM")}
    return subprocess.Popen(
        [sys.executable if fresh else forked.python(), "-m", "sam_train", "doctor", *words],
        cwd=cwd,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def two_machines(port: int, number: int) -> dict[str, str]:
    """Two nodes of one process each, as torchrun would say it."""
    return {
        "RANK": str(number),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def row(table: str, check: str) -> list[str]:
    """Status of a check, on each node."""
    return re.findall(rf"^(ok|warn|FAIL) +{check} ", table, re.MULTILINE)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def words(tiny: Any, tmp_path: Path) -> list[str]:
    tiny.pack(tmp_path / "sa_000000.tar", tiny.good(4))
    kept = [w for w in tiny.settings if not w.startswith("trainer.devices")]
    return [*kept, f"data.train={tmp_path / 'sa_000000.tar'}", "doctor.seconds=150"]


def test_one_command_looks_at_all_processes_of_a_machine(words: list[str], tmp_path: Path) -> None:
    run = start([*words, "run_dir=run", "trainer.devices=2"], cwd=tmp_path)
    said = run.communicate(timeout=200)[0]
    assert run.returncode == 0, said
    for check in ("versions", "settings", "gpus", "shards", "run_dir", "open files", "all-reduce"):
        assert row(said, check) == ["ok"], said
    assert "all-reduce" in said
    assert "GB/s" in said
    assert re.search(r"^doctor: 8 checks in .* s, nothing stands in the way", said, re.MULTILINE)
    # Nothing of it stays.
    assert list((tmp_path / "run").iterdir()) == []


def test_machines_that_differ_are_refused(words: list[str], tmp_path: Path, port: int) -> None:
    runs = []
    for number in range(2):
        cwd = tmp_path / f"machine-{number}"
        cwd.mkdir()
        # A folder of its own each, and another command line.
        own = [*words, "run_dir=run", f"seed={number}"]
        runs.append(start(own, cwd=cwd, **two_machines(port, number)))
    said = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [2, 2], said
    assert sorted(row(said[0], "settings")) == ["FAIL", "ok"]
    assert sorted(row(said[0], "one run_dir")) == ["FAIL", "ok"]
    assert row(said[0], "all-reduce") == ["ok", "ok"]
    assert row(said[0], "clock") == ["ok", "ok"]
    assert re.search(r"^doctor: 20 checks in .*, 2 failed: ", said[0], re.MULTILINE)
    assert said[1] == ""


def test_who_does_not_come_is_named(words: list[str], tmp_path: Path, port: int) -> None:
    words = [*words, "run_dir=run", "doctor.seconds=3"]
    run = start(words, cwd=tmp_path, fresh=True, **two_machines(port, 0))
    said = run.communicate(timeout=200)[0]
    assert run.returncode == 2
    assert "FAIL  there       rank 1  1 of its processes did not come within 3 s" in said
    assert row(said, "shards") == ["ok"]
    assert "timed out" not in said


def test_who_comes_to_nobody_says_so(words: list[str], tmp_path: Path, port: int) -> None:
    words = [*words, "run_dir=run", "doctor.seconds=3"]
    run = start(words, cwd=tmp_path, **two_machines(port, 1))
    said = run.communicate(timeout=200)[0]
    assert run.returncode == 2
    assert f"rank 1 on {socket.gethostname()} does not reach the first process at 127.0.0.1" in said


def test_storage_that_hangs_is_left_behind(words: list[str], tmp_path: Path) -> None:
    with HostileServer(tmp_path) as server:
        server.behave("sa_000000.tar", Behaviour(stall_after=0))
        words = [*words, f"data.train={server.url('sa_000000.tar')}", "doctor.seconds=3"]
        run = start([*words, "run_dir=run"], cwd=tmp_path)
        said = run.communicate(timeout=200)[0]
    assert run.returncode == 2
    assert row(said, "shards") == ["FAIL"]
    assert "not finished after 3 s" in said
    # A busy machine may not finish another check in three seconds either.
    assert "failed: this job would not train" in said
