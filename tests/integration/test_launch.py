"""The launchers for real: torchrun with two processes on the CPU, and bash's opinion of all."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def clean_environment(**more: str) -> dict[str, str]:
    """Without what another launcher, or a test before, may have left."""
    left = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "NNODES")
    kept = {k: v for k, v in os.environ.items() if k not in left and not k.startswith("SLURM")}
    return {**kept, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **more}


@pytest.mark.parametrize("script", sorted(p.name for p in LAUNCH.iterdir()))
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
    assert checkpoint["SamDataModule"] == {"position": 4, "step": 2}


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


def test_slurm_starts_a_task_per_gpu_with_all_settings(tmp_path: Path) -> None:
    """There is no Slurm here: what srun would be called with, in the environment of a job."""
    stand_in(tmp_path, "srun")
    words = ["+experiment=vit_b", "data.train=[a b.tar,c.tar]"]
    done = subprocess.run(
        ["bash", str(LAUNCH / "slurm.sbatch"), *words],
        env=clean_environment(
            PATH=f"{tmp_path}:{os.environ['PATH']}",
            SLURM_SUBMIT_DIR=str(LAUNCH.parent),
            SLURM_NNODES="4",
            SLURM_NTASKS_PER_NODE="8",
            SLURM_CPUS_PER_TASK="6",
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "--kill-on-bad-exit=1",
        *(sys.executable, "-m", "sam_train", "fit", *words),
        *("trainer.num_nodes=4", "trainer.devices=8"),
    ]


def test_several_machines_meet_at_the_first(tmp_path: Path) -> None:
    stand_in(tmp_path, "python")
    done = subprocess.run(
        [str(LAUNCH / "torchrun.sh"), "trainer.devices=8"],
        env=clean_environment(
            PYTHON=str(tmp_path / "python"), MASTER_ADDR="node0", NNODES="4", NODE_RANK="3"
        ),
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    for word in (
        *("--nnodes=4", "--nproc-per-node=8", "--node-rank=3", "--rdzv-endpoint=node0:29500"),
        *("trainer.num_nodes=4", "trainer.devices=8"),
    ):
        assert word in said
