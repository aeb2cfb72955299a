"""The parts that every tool shares: command line, progress bar and processes.

A tool is `def NAME(args: argparse.Namespace) -> str | Answer` and

    def main(argv: Sequence[str] | None = None) -> int:
        return command.run(lambda: NAME(parser().parse_args(argv)))
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from sam_train.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

FOUND_PROBLEMS = 1
"""Exit status of a tool that did its work and found something wrong."""
USER_ERROR = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Answer:
    """A tool's last words and exit status."""

    text: str
    """Printed on standard output."""
    status: int = 0
    """Exit status."""


def run(tool: Callable[[], str | Answer], *, stopped: str = "stopped; run it again") -> int:
    """Call the tool, print its answer and return the exit status.

    Args:
        tool: parses its arguments and works; raises UserError for what the user must mend.
        stopped: what to say after Ctrl-C: what is left behind, or how to go on.

    Returns:
        0 or the answer's status; 2 after a UserError or a file that cannot be read or written,
        which is one line on standard error; 130 after Ctrl-C.
    """
    try:
        answer = tool()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    if isinstance(answer, str):
        answer = Answer(answer)
    print(answer.text)
    return answer.status


def parser(name: str, *, description: str | None, examples: str) -> argparse.ArgumentParser:
    """Make the parser of `python -m data_tools.NAME`, with examples at the end of --help."""
    return argparse.ArgumentParser(
        prog=f"python -m data_tools.{name}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_workers(to: argparse.ArgumentParser) -> None:
    """Add the option --workers, as `parallel` takes it."""
    to.add_argument(
        "--workers", type=between(0, sys.maxsize, int), default=os.cpu_count() or 1, metavar="N",
        help="processes; 0 works in this one (default: one per core, here %(default)s)",
    )  # fmt: skip


def between(low: float, high: float, kind: type[int] | type[float]) -> Callable[[str], Any]:
    """Make an argparse type: a number within limits, both included."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            limits = f"from {low:g} to {high:g}" if high < sys.maxsize else f"of at least {low:g}"
            raise argparse.ArgumentTypeError(f"must be {what} {limits}, got {text!r}")
        return value

    return parse


class Bar:
    """The bar that `progress` shows."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown = shown
        self._task = task

    def advance(self, steps: float = 1, *, note: str | None = None) -> None:
        """Go on by `steps`; `note` replaces the text behind the count."""
        fields: dict[str, Any] = {} if note is None else {"note": note}
        self._shown.update(self._task, advance=steps, **fields)

    def reach(self, completed: float, *, note: str | None = None) -> None:
        """Go to `completed`, as `advance`."""
        fields: dict[str, Any] = {} if note is None else {"note": note}
        self._shown.update(self._task, completed=completed, **fields)


@contextmanager
def progress(
    what: str, *, total: float | None, unit: str = "", is_bytes: bool = False, quiet: bool = False
) -> Iterator[Bar]:
    """Show a progress bar on standard error; silent where nobody watches, or if `quiet`.

    Args:
        what: in front of the bar ("converting").
        total: steps; None while it is unknown.
        unit: behind the count ("photos"), until a note replaces it.
        is_bytes: steps are bytes, shown as such with their speed.
    """
    console = Console(stderr=True)
    counted: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if is_bytes else [MofNCompleteColumn()]
    )
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        *counted,
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    ]
    disable = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=disable) as shown:
        yield Bar(shown, shown.add_task(what, total=total, note=unit))


def parallel(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """Map `work` over `items` in order, on several processes, with few items in flight.

    Args:
        work: a function of a module, or a `functools.partial` of one, so that it can be sent.
        items: read as they are needed.
        workers: processes beside this one; 0 does everything here.

    Raises:
        UserError: a worker process died.
    """
    if workers == 0:
        yield from map(work, items)
        return
    # Spawned, not forked: the progress bar's thread may hold a lock in the moment of a fork.
    context = multiprocessing.get_context("spawn")
    # A window rather than map(): finished results must not pile up before a slow disk.
    window: deque[Future[Result]] = deque()
    waiting = iter(items)
    with ProcessPoolExecutor(workers, mp_context=context) as pool:

        def submit(number: int) -> None:
            with _deaf_children():
                for item in islice(waiting, number):
                    window.append(pool.submit(work, item))

        try:
            submit(4 * workers)
            while window:
                result = window.popleft().result()
                submit(1)
                yield result
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for lack of memory; try --workers 1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C, which reaches the whole process group: only this
    one answers it, with one line, instead of a traceback from each (the pool starts its processes
    when work is handed in)."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
