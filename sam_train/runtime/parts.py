"""The part of the work that a process does, where many share it without talking."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sam_train.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One of `count` equal shares of the work, the one of number `index`."""

    index: int = 0
    count: int = 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Take every `count`-th item: neighbours tend to be alike and go to different processes."""
        return list(items[self.index :: self.count])

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Share:
        """Read the part from the environment: a SLURM array's task, times the launcher's rank.

        A batch script that starts python without srun is one process, whatever its `--ntasks`.

        Raises:
            UserError: a variable is no number, or the array has gaps.
        """
        if "WORLD_SIZE" in environment:
            process = _number(environment, "RANK", 0), _number(environment, "WORLD_SIZE", 1)
        elif "SLURM_STEP_NUM_TASKS" in environment:
            tasks = _number(environment, "SLURM_STEP_NUM_TASKS", 1)
            process = _number(environment, "SLURM_PROCID", 0), tasks
        else:
            process = 0, 1
        job, jobs = _array(environment)
        part = cls(index=job * process[1] + process[0], count=jobs * process[1])
        if not 0 <= part.index < part.count:
            raise UserError(
                f"process {process[0]} of {process[1]} cannot be: check RANK and WORLD_SIZE"
            )
        return part


def _array(environment: Mapping[str, str]) -> tuple[int, int]:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return 0, 1
    task = _number(environment, "SLURM_ARRAY_TASK_ID", 0)
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    last = _number(environment, "SLURM_ARRAY_TASK_MAX", task)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT", (last - first) // step + 1)
    if count != (last - first) // step + 1:
        raise UserError(
            f"a job array of {count} tasks from {first} to {last} has gaps: use "
            f"--array=0-{count - 1}"
        )
    return (task - first) // step, count


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"the environment variable {name}={text} is not a number") from None
