"""Items that many processes work through without talking to each other.

Each process takes its part (`runtime.parts`), reads ahead in threads, and appends a line to a
journal for each finished item. The same command resumes from the journals. Whoever finishes last
writes the result, under a lock (`runtime.lock`).
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

log = logging.getLogger("sam_train")

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Record = TypeVar("Record")

_SECONDS_BETWEEN_LINES = 20.0


class SkipItem(Exception):  # noqa: N818 - caught and counted, not an error of the program
    """An item that cannot be used. `reason` is a few words, the same for all of a kind."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason = reason


def work_through(
    items: Sequence[Item],
    *,
    load: Callable[[Item], Loaded],
    do: Callable[[Item, Loaded], Record],
    skip: Callable[[Item, SkipItem], Record],
    keep: Callable[[Record], None],
    ahead: int,
    progress: Progress,
) -> None:
    """Load, do and record `items` in order.

    Args:
        items: of this process, without those in the journal.
        load: reads an item, in a thread beside the main one.
        do: makes an item's record of what `load` returned.
        skip: makes the record of an item for which `load` or `do` raised SkipItem.
        keep: adds a record to the journal.
        ahead: threads, and items that are read meanwhile.
        progress: logs a line now and then.
    """
    for item, loading in _read_ahead(items, load, ahead=ahead):
        try:
            record = do(item, loading.result())
        except SkipItem as reason:
            record = skip(item, reason)
        keep(record)
        progress.step()


def _read_ahead(
    items: Sequence[Item], load: Callable[[Item], Loaded], *, ahead: int
) -> Iterator[tuple[Item, Future[Loaded]]]:
    with ThreadPoolExecutor(ahead) as pool:
        waiting: deque[tuple[Item, Future[Loaded]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(load, item)))
                if len(waiting) > ahead:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(cancel_futures=True)


class Progress:
    """A line in the log now and then, where the work takes long."""

    def __init__(self, name: str, *, total: int | None = None) -> None:
        """Start the clock.

        Args:
            name: of the task, or the plural of its items.
            total: items to be done, for the remaining time; None where nobody knows.
        """
        self._name, self._total, self._done = name, total, 0
        self._began = self._said = time.monotonic()

    def step(self) -> None:
        """Count an item."""
        self._done += 1
        now = time.monotonic()
        if now - self._said <= _SECONDS_BETWEEN_LINES:
            return
        self._said = now
        rate = self._done / (now - self._began)
        of, left = "", ""
        if self._total is not None:
            seconds = int((self._total - self._done) / rate)
            of, left = f" of {self._total}", f", {seconds // 60}:{seconds % 60:02d} left"
        log.info("%s: %d%s, %.3g a second%s", self._name, self._done, of, rate, left)


def read_journal(path: Path, decode: Callable[[bytes], Record]) -> list[Record]:
    """Return the records of a journal, in order; none where there is no file.

    A line that a killed process left unfinished is passed over: its item is done again.

    Args:
        path: of the journal; other processes may be appending to it.
        decode: turns a line into a record, or raises ValueError.
    """
    found = []
    # What follows the last line break is unfinished, or being written.
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(decode(line))
        except ValueError:
            log.debug("%s: line %d is unfinished", path, number)
    return found


def append_line(file: BinaryIO, line: bytes) -> None:
    """Append a record to a journal; it is in the file when this returns.

    Args:
        file: opened for reading and appending ("a+b").
        line: without line breaks.
    """
    if file.seek(0, 2):
        file.seek(-1, 2)
        # A killed process may have left half a line.
        if file.read(1) != b"\n":
            line = b"\n" + line
    file.write(line + b"\n")
    file.flush()
