"""The frame that every task of `evaluate` stands in, and how tasks are found.

A task lists its items and measures one of them. The frame reads ahead, shares the items among
processes and keeps a record of each. It resumes where a run stopped, and asks for the summary once
all records are there.
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
from sam_train.runtime.parts import Share
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
    """The settings, folder and model that tasks run with; one per process."""

    cfg: RunConfig
    run_dir: Path
    part: Share
    model: Sam | None = None
    """The model in eval mode, on `device`; None if no task needs one."""
    source: str = ""
    """The value of `ckpt`, or another subject of measurement."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def sam(self) -> Sam:
        """The model, for tasks that need one."""
        assert self.model is not None
        return self.model

    def folder(self, task: Task[Any]) -> Path:
        """Return the folder of a task's files, records and pictures, `run_dir/TASK`."""
        return self.run_dir / task.name

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the model's weights, the same in any file format."""
        from sam_train.model.checkpoints.digest import weights_digest  # noqa: PLC0415 (reads every weight)

        return weights_digest(self.model) if self.model is not None else "none"


class Task(ABC, Generic[ItemT]):
    """A kind of measurement."""

    name: str
    """The name in `task=`, and of the folder in run_dir."""
    summary: str
    """A line for messages and the report."""
    headline: ClassVar[tuple[str, Sequence[str]]] = ("", ())
    """The measured row and the columns that stand at the top of the report. Where no row has that
    name, the first called `NAME, ...` stands there, else the first."""

    @abstractmethod
    def check(self, cfg: RunConfig) -> None:
        """Check the settings before anything is loaded.

        Raises:
            UserError: a setting is missing or wrong. `task=all` then leaves the task out and logs
                the message.
        """

    def needs_model(self, cfg: RunConfig) -> bool:
        """Tell whether the task needs a model, and so `ckpt`."""
        return True

    @abstractmethod
    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Return all that a record depends on beside the weights, as plain values and dataclasses.

        Settings that `summarise` alone reads do not belong here.
        """

    @abstractmethod
    def items(self, run: Run) -> Sequence[ItemT]:
        """List all items, in the same order in every process.

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
        """Measure an item and return a record that JSON can hold. Runs without gradients.

        Raises:
            SkipItem: the item cannot be used.
        """

    @abstractmethod
    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """Summarise the records of all processes and write pictures to `run.folder(self)`.

        Args:
            records: in the order of `items`, each with its `key`.

        Raises:
            UserError: the records do not suffice for a result.
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
