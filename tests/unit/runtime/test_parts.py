"""Which part is a process's own, under each way of starting many."""

from __future__ import annotations

import pytest

from sam_train.errors import UserError
from sam_train.runtime.parts import Share

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "14",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "18",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "5",
}


@pytest.mark.parametrize(
    ("environment", "index", "count"),
    [
        ({}, 0, 1),
        ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, 3, 8),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, 1, 2),
        # A batch script without srun: one process, though the job has room for four.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 0, 1),
        (ARRAY, 2, 5),
        ({**ARRAY, "RANK": "1", "WORLD_SIZE": "4"}, 9, 20),
    ],
)
def test_from_environment(environment: dict[str, str], index: int, count: int) -> None:
    assert Share.from_environment(environment) == Share(index=index, count=count)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE"),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "3"}, "has gaps: use --array=0-2"),
    ],
)
def test_what_cannot_be(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Share.from_environment(environment)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_item_has_one_part(count: int) -> None:
    items = list(range(13))
    parts = [Share(index=k, count=count).of(items) for k in range(count)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
