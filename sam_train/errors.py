"""The one exception whose message is the whole answer."""

from __future__ import annotations

from dataclasses import dataclass


class UserError(Exception):
    """Something the user can mend.

    The message is one line: what is wrong, where, and the way out. The command line prints it
    without a traceback and exits with status 2; in python it is raised like any other exception.
    """


@dataclass(frozen=True, kw_only=True)
class MemoryInUse:
    """Memory of a GPU, else of a process, in bytes."""

    used: float
    """The peak in use."""
    total: float
    """The limit for the process."""
    base: float = 0.0
    """The part in use before the first step: weights and, on a CPU, the program."""
    on_gpu: bool = False


class OutOfMemoryError(UserError):
    """The end of memory during training, with the figures from which a way out can be counted."""

    def __init__(self, message: str, *, memory: MemoryInUse, ranks: int) -> None:
        super().__init__(message)
        self.memory = memory
        self.ranks = ranks
