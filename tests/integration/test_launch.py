"""The launchers for real: torchrun with two processes on the CPU, and bash's opinion of all."""

from __future__ import annotations

import contextlib
import csv
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from slurm_cluster import wait_until

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def clean_environment(**more: str) -> dict[str, str]:
    """Without what another launcher, or a test before, may have left."""
    left = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "NNODES")
    kept = {k: v for k, v in os.environ.items() if k not in left and not k.startswith("SLURM")}
    return {**kept, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.parametrize("script", sorted(p.name for p in LAUNCH.iterdir() if p.is_file()))
def test_bash_reads_it(script: str) -> None:
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


def test_torchrun_trains_with_two_processes(tiny: Any, tmp_path: Path) -> None:
    shard = tiny.pack(tmp_path / "sa_000000.tar", tiny.good(4))
    settings = [word for word in tiny.settings if not word.startswith("trainer.devices")]
    run_dir = tmp_path / "run"
    done = subprocess.run(
        [
            *(str(LAUNCH / "torchrun.sh"), *settings),
            *(f"data.train={shard}", f"run_dir={run_dir}", "trainer.devices=2"),
        ],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Lightning took torchrun's two processes for its own: had it tried to start more, the second
    # would have refused. The first alone speaks, for both.
    assert done.stdout.count("everything of this run lies in") == 1
    with (run_dir / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)][-1] == "2"
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    data = checkpoint["SamDataModule"]
    assert (data["position"], data["step"]) == (4, 2)
    assert data.keys() == {"position", "step", "samples"}


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_machine_leaves_and_the_others_go_on(tiny: Any, tmp_path: Path) -> None:
    shard = tiny.pack(tmp_path / "sa_000000.tar", tiny.good(4))
    run_dir, metrics = tmp_path / "run", tmp_path / "run" / "metrics.csv"
    settings = [w for w in tiny.settings if not w.startswith(("trainer.devices", "trainer.max"))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = clean_environment(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        NNODES="1:2",
        # torchrun's own variable, so that it is not patient for minutes.
        PET_RDZV_CONF="last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3",
    )
    machines = []
    for number in range(2):
        with (tmp_path / f"machine-{number}.txt").open("w") as out:
            words = [*settings, f"data.train={shard}", f"run_dir={run_dir}", "trainer.devices=1"]
            machines.append(
                subprocess.Popen(
                    [
                        *(str(LAUNCH / "torchrun.sh"), *words),
                        *("trainer.max_steps=120", "checkpoint.every_steps=5"),
                    ],
                    cwd=tmp_path,
                    env=environment,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )
        # The first keeps the machines' register, so it must be there before the other one is.
        wait_until(lambda: listens(port), what="the first machine", seconds=300)
    try:
        wait_until(
            lambda: metrics.is_file() and len(metrics.read_text().splitlines()) > 10,
            what="training",
            seconds=300,
            pause=0.05,
        )
        said = (tmp_path / "machine-0.txt").read_text() + (tmp_path / "machine-1.txt").read_text()
        for process in family(machines[1].pid):
            os.kill(process, signal.SIGKILL)
        assert machines[0].wait(timeout=300) == 0, said
    finally:
        for machine in machines:
            for process in family(machine.pid) if machine.poll() is None else []:
                os.kill(process, signal.SIGKILL)
            machine.wait()
    assert "continuing " in (tmp_path / "machine-0.txt").read_text()
    record = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["run"]
    assert record["processes"] == 1
    with metrics.open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, 121))


def family(pid: int) -> list[int]:
    """A process and all that it started: torchrun's workers have sessions of their own."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def test_torchrun_wants_a_number_of_devices(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(LAUNCH / "torchrun.sh"), "trainer.devices=[0,1]"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: trainer.devices=[0,1]")


def stand_in(folder: Path, name: str) -> None:
    """A program that prints what it was called with, one word a line."""
    script = folder / name
    script.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    script.chmod(0o755)


def test_several_machines_meet_at_the_first(tmp_path: Path) -> None:
    stand_in(tmp_path, "python")
    done = subprocess.run(
        [str(LAUNCH / "torchrun.sh"), "trainer.devices=8"],
        env=clean_environment(
            PYTHON=str(tmp_path / "python"), MASTER_ADDR="node0", NNODES="2:4", VERB="doctor"
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    for word in (
        *("--nnodes=2:4", "--nproc-per-node=8", "--rdzv-endpoint=node0:29500", "doctor"),
        *("trainer.num_nodes=${oc.env:GROUP_WORLD_SIZE}", "trainer.devices=8"),
    ):
        assert word in said
