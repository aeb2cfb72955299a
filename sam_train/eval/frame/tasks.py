"""The frame that every task of `evaluate` stands in, and how tasks are found.

A task says which items it has and measures one of them; the frame reads ahead, shares the items
among processes, keeps a record of each, goes on where a run stopped, and asks for the summary once
all are there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import torch

from sam_train.errors import UserError
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import TaskResult
from sam_train.runtime.parts import Part
from sam_train.runtime.registry import Registry

if TYPE_CHECKING:
    from sam_train.model import Sam
    from sam_train.settings.run import RunConfig


class Keyed(Protocol):
    """An item of a task."""

    @property
    def key(self) -> str:
        """`dataset/sample`; unique within the task."""


ItemT = TypeVar("ItemT", bound=Keyed)
TaskT = TypeVar("TaskT", bound="Task[Any]")

_FOLDER = Path(__file__).parents[1] / "tasks"


@dataclass(kw_only=True)
class Run:
    """What tasks are run with; one per process."""

    cfg: RunConfig
    run_dir: Path
    part: Part
    model: Sam | None = None
    """In evaluation mode, on `device`; None if no task needs one."""
    source: str = ""
    """What `ckpt` said, or what else is measured."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def sam(self) -> Sam:
        """The model, for tasks that need one."""
        assert self.model is not None
        return self.model

    def folder(self, task: Task[Any]) -> Path:
        """Where a task writes its files, records and pictures: `run_dir/TASK`."""
        return self.run_dir / task.name

    @cached_property
    def weights(self) -> str:
        """A digest of the model's weights: of the same ones in any file format."""
        from sam_train.model.checkpoints.digest import weights_digest  # noqa: PLC0415 (reads every weight)

        return weights_digest(self.model) if self.model is not None else "none"


class Task(ABC, Generic[ItemT]):
    """One kind of measurement."""

    name: str
    """As in `task=`, and of its folder in run_dir."""
    summary: str
    """One line for messages and the report."""
    headline: ClassVar[tuple[str, Sequence[str]]] = ("", ())
    """The measured row and the columns that stand at the top of the report. No row of that name:
    the first called `NAME, ...`, else the first."""

    @abstractmethod
    def check(self, cfg: RunConfig) -> None:
        """Before anything is loaded.

        Raises:
            UserError: a setting is missing or wrong; `task=all` then leaves the task out and says
                this.
        """

    def needs_model(self, cfg: RunConfig) -> bool:
        """Whether `ckpt` must be named."""
        return True

    @abstractmethod
    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Everything that a record depends on beside the weights: plain values and dataclasses.
        Not what `summarise` alone reads."""

    @abstractmethod
    def items(self, run: Run) -> Sequence[ItemT]:
        """All items, in the same order in every process.

        Raises:
            UserError: the data cannot be listed.
        """

    def load(self, run: Run, item: ItemT) -> Any:
        """Read what `measure` needs, in a thread beside it.

        Raises:
            SkipItem: the item cannot be used.
        """
        return item

    @abstractmethod
    def measure(self, run: Run, item: ItemT, loaded: Any) -> Record:
        """The record of an item: what JSON can hold. Runs without gradients.

        Raises:
            SkipItem: the item cannot be used.
        """

    @abstractmethod
    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """The result of the records of all processes, in the order of `items`; each has its `key`.
        Writes pictures to `run.folder(self)`.

        Raises:
            UserError: nothing can be said from them.
        """


PAPER_ORDER = ("points", "edges", "proposals", "instances")
"""The paper's own experiments (§7.1 to §7.4) come first, in its order; others follow by name."""

TASKS: Registry[type[Task[Any]]] = Registry("task")


def register(task: type[TaskT]) -> type[TaskT]:
    """Register a task under its own name; a plug-in's task needs nothing else.

    Raises:
        UserError: another module has registered that name.
    """
    TASKS.add(task.name, task)
    return task


def task_names() -> list[str]:
    """List the tasks: the folders of `eval/tasks` and those that plug-ins registered.

    Folders are only listed, not imported: most tasks need what others do not.
    """
    folders = {path.parent.name for path in _FOLDER.glob("*/task.py")}
    others = (folders | {name for name, _ in TASKS.items()}) - set(PAPER_ORDER)
    return [*PAPER_ORDER, *sorted(others)]


def load_task(name: str) -> Task[Any]:
    """Make the task of a name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in task_names():
        raise UserError(f"task={name} is unknown: use {', '.join(task_names())} or all")
    if name not in dict(TASKS.items()):
        import_module(f"sam_train.eval.tasks.{name}.task")
    return TASKS[name]()
