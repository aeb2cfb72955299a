"""Where the doctor believes to be, by what a launcher left in the environment."""

from __future__ import annotations

import pytest

from sam_train.cluster.doctor.place import find_place
from sam_train.train.config import TrainerConfig

CPU = TrainerConfig(accelerator="cpu", devices="1")


@pytest.fixture(autouse=True)
def batch_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Slurm sets for a batch script without --ntasks."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NAME", "wrap")


def test_a_batch_script_without_tasks_is_one_process() -> None:
    place = find_place(CPU)
    assert (place.rank, place.ranks) == (0, 1)


def test_tasks_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    place = find_place(CPU)
    assert (place.rank, place.ranks, place.local_rank, place.local_ranks) == (3, 4, 1, 2)
