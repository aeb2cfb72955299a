"""Several tasks in one command: what must be mended in one does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sam_train.errors import UserError
from sam_train.eval.evaluate import Outcome, run_tasks
from sam_train.eval.frame.result import Row, TaskResult
from sam_train.eval.frame.tasks import Run, Task
from sam_train.runtime.parts import Share
from sam_train.settings.run import RunConfig


@dataclass(frozen=True)
class Item:
    """A number."""

    key: str


class Counting(Task[Item]):
    """Four items; refuses where it is told to."""

    summary = "counting"

    def __init__(self, name: str, *, refuses: str = "", on_measure: Callable[[], object] = int):
        self.name, self.refuses, self.on_measure = name, refuses, on_measure

    def check(self, cfg: RunConfig) -> None:
        """Nothing to set."""

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """See `Task`."""
        return {}

    def items(self, run: Run) -> Sequence[Item]:
        """See `Task`."""
        self._refuse("items")
        return [Item(f"set/{k}") for k in range(4)]

    def measure(self, run: Run, item: Item, loaded: Any) -> dict[str, Any]:
        """See `Task`."""
        self._refuse("measure")
        self.on_measure()
        return {"value": 1}

    def summarise(self, run: Run, records: Sequence[Mapping[str, Any]]) -> TaskResult:
        """See `Task`."""
        self._refuse("summarise")
        rows = [Row(name="all", values={"items": len(records)})]
        return TaskResult(task=self.name, title=self.name, figures={}, columns=["items"], rows=rows)

    def _refuse(self, where: str) -> None:
        if where == self.refuses:
            raise UserError(f"{self.name} refuses in {where}: mend it")


def run(tmp_path: Path, *, index: int = 0, count: int = 1) -> Run:
    return Run(cfg=RunConfig(), run_dir=tmp_path, part=Share(index=index, count=count))


def names(found: Outcome) -> list[str]:
    return [result.task for result in found.results]


@pytest.mark.parametrize("where", ["items", "measure", "summarise"])
def test_the_other_tasks_are_measured(tmp_path: Path, where: str) -> None:
    tasks = [Counting("a"), Counting("b", refuses=where), Counting("c")]
    found = run_tasks(tasks, run(tmp_path))
    assert (names(found), found.waiting) == (["a", "c"], [])
    assert found.failed == {"b": f"b refuses in {where}: mend it"}
    assert found.failure(of=3) == (
        f"1 of 3 tasks could not be measured (b: b refuses in {where}: mend it)"
    )
    # A task alone says its own line.
    alone = run_tasks(tasks[1:2], run(tmp_path))
    assert alone.failure(of=1) == f"b refuses in {where}: mend it"


@pytest.mark.parametrize("where", ["items", "summarise"])
def test_of_several_processes_the_last_one_knows_what_failed(tmp_path: Path, where: str) -> None:
    """The second process does all of its own while the first one is at its last task: the second
    leaves that one waiting and the first finds everything done."""
    second: list[Outcome] = []

    def other_process() -> None:
        if not second:
            tasks = [Counting("a"), Counting("b", refuses=where), Counting("c")]
            second.append(run_tasks(tasks, run(tmp_path, index=1, count=2)))

    tasks = [Counting("a"), Counting("b", refuses=where), Counting("c", on_measure=other_process)]
    first = run_tasks(tasks, run(tmp_path, count=2))
    assert (names(second[0]), list(second[0].failed), second[0].waiting) == (["a"], ["b"], ["c"])
    assert (sorted(names(first)), list(first.failed), first.waiting) == (["a", "c"], ["b"], [])
    assert all(result.rows[0].values["items"] == 4 for result in first.results)
