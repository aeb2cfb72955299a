"""The log of a run: the terminal, and the same lines with their time in log.txt."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich import get_console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler


def rank_zero() -> bool:
    """Tell whether this is the first process, before torch.distributed could."""
    # The last: a person who starts each machine's first process by hand.
    names = ("RANK", "SLURM_PROCID", "NODE_RANK")
    rank = next((os.environ[name] for name in names if name in os.environ), "0")
    return rank == "0" and os.environ.get("LOCAL_RANK", "0") == "0"


def start_log(path: Path) -> None:
    """Send the project's messages to the terminal (first process only) and to `path`."""
    logger = logging.getLogger("sam_train")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    # Lightning's own greetings and tips say nothing about the run.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*but have no `validation_step`.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # Units that `optim.tune` freezes stay in eval mode on purpose.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start")
    # A checkpoint may hold the state of callbacks that later versions have not.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available on your system.*")
    if not rank_zero():
        logger.addHandler(logging.NullHandler())
        return
    terminal = _terminal()
    terminal.addFilter(_REPEATS)
    logger.addHandler(terminal)
    file = _LogFile(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(file)


@contextmanager
def quiet(below: int = logging.ERROR) -> Iterator[None]:
    """Keep back the project's messages below a level, where the same ones were given before."""
    logger = logging.getLogger("sam_train")
    level = logger.level
    logger.setLevel(below)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Repeats(logging.Filter):
    """Drops lines that were given before, while `lines_once` asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: set[str] | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is new."""
        if self.given is None:
            return True
        text = record.getMessage()
        new = text not in self.given
        self.given.add(text)
        return new


_REPEATS = _Repeats()


@contextmanager
def lines_once() -> Iterator[None]:
    """Give each line of the terminal once: several steps of a command open the same files."""
    _REPEATS.given = set()
    try:
        yield
    finally:
        _REPEATS.given = None


class _LogFile(logging.FileHandler):
    """A log that a full disk ends in silence: the run itself says it, in one line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Pass over an error of the disk; called within the exception that writing raised."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _terminal() -> logging.Handler:
    """Return a handler that prints around a live progress bar, or plain lines into a file."""
    if get_console().is_terminal:
        return RichHandler(
            show_time=False, show_level=False, show_path=False, highlighter=NullHighlighter()
        )
    return logging.StreamHandler(sys.stdout)
