"""The frame that every task of `evaluate` stands in, and the list of them.

A task says which items it has and measures one of them; the frame reads ahead, shares the items
among processes, keeps a record of each, goes on where a run stopped, and asks for the summary once
all are there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch

from sam_train.errors import UserError
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import TaskResult
from sam_train.runtime.parts import Part

if TYPE_CHECKING:
    from sam_train.model import Sam
    from sam_train.settings.run import RunConfig


class Keyed(Protocol):
    """An item of a task."""

    @property
    def key(self) -> str:
        """`dataset/sample`; unique within the task."""


ItemT = TypeVar("ItemT", bound=Keyed)


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


# Imported when asked for: most need what others do not.
TASKS = {
    "points": "sam_train.eval.tasks.points.task:Points",
    "edges": "sam_train.eval.tasks.edges.task:Edges",
    "proposals": "sam_train.eval.tasks.proposals.task:Proposals",
    "instances": "sam_train.eval.tasks.instances.task:Instances",
    "fairness": "sam_train.eval.tasks.fairness.task:Fairness",
    "probe": "sam_train.eval.tasks.probe.task:Probe",
}
"""Name -> where its class is."""


def load_task(name: str) -> Task[Any]:
    """A task by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in TASKS:
        raise UserError(f"task={name} is unknown: use {', '.join(TASKS)} or all")
    module, cls = TASKS[name].split(":")
    make: Callable[[], Task[Any]] = getattr(import_module(module), cls)
    return make()
