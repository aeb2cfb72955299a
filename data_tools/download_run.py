"""Many files at once: the threads, the bar, and the stop that leaves everything continuable."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from rich.filesize import decimal

from data_tools.command import Bar, progress
from data_tools.download_checks import Checksum
from data_tools.download_fetch import Fetch, Policy, probe
from data_tools.download_http import Client, Fault, TransferError
from data_tools.download_links import Link
from data_tools.download_part import Arrival, LocalError, PartialFile, Record
from data_tools.download_plan import DownloadPlan, Item, State, compared, settled
from sam_train.errors import UserError
from sam_train.runtime.text import count

_LINE_SECONDS = 60.0
"""Seconds between lines about the progress where there is no terminal for a bar."""

_DRAW_SECONDS = 0.1

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(slots=True)
class Outcome:
    """The outcome of a plan."""

    complete: list[Arrival] = field(default_factory=list)
    """Also what was there before."""
    failed: list[tuple[Link, TransferError]] = field(default_factory=list)


class Downloader:
    """Plans and fetches the files of one list into one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        policy: Policy,
        parallel: int,
        checksums: Mapping[str, Checksum],
    ) -> None:
        self._folder = folder
        self._policy = policy
        self._parallel = parallel
        self._checksums = checksums
        self._client = Client(stall_seconds=policy.stall_seconds, connections=parallel)
        self._record = Record(folder)
        self._halt = threading.Event()
        self._board = _Board()

    def plan(self, links: Sequence[Link]) -> DownloadPlan:
        """Look at the disk, and ask the server about what the disk does not settle."""
        with progress("asking for lengths", total=len(links), unit="files") as bar:

            def line(_: Item) -> None:
                bar.advance()

            items = self._all(self._planned, links, done=line)
        return DownloadPlan(sorted(items, key=lambda item: item.link.file_name))

    def fetch(self, plan: DownloadPlan) -> Outcome:
        """Download what the plan names.

        Raises:
            UserError: this machine cannot write, for example because the disk is full. What has
                arrived is kept, files and parts.
        """
        outcome = Outcome(failed=[(i.link, i.fault) for i in plan.of(State.MISSING) if i.fault])
        for item in plan.of(State.COMPLETE):
            name = item.link.file_name
            known = self._record.get(name)
            if known is None or known.size != item.have:
                known = Arrival(file_name=name, size=item.have)
                self._record.add(known)
            outcome.complete.append(known)
        todo = plan.of(State.CHECK, State.CONTINUE, State.FETCH, State.REPLACE)
        if not todo:
            return outcome
        self._board.start(plan, files=len(todo))

        def settle(result: Arrival | tuple[Link, TransferError]) -> None:
            if isinstance(result, Arrival):
                outcome.complete.append(result)
            else:
                outcome.failed.append(result)
            self._board.file_done()

        try:
            with self._board.shown():
                self._all(self._fetched, todo, done=settle)
        except LocalError as error:
            raise UserError(
                f"{error}; {count(len(outcome.complete), 'file')} complete and the parts of others "
                f"are kept, {decimal(self._board.lacking())} are still to come: mend that, and "
                "run the same command again"
            ) from error
        return outcome

    def _planned(self, link: Link) -> Item:
        checksum = self._checksums.get(link.file_name)
        known = settled(link, folder=self._folder, record=self._record, checksum=checksum)
        if known is not None:
            return known
        try:
            remote = probe(link, client=self._client, policy=self._policy, halt=self._halt)
        except TransferError as error:
            return Item(link=link, state=State.MISSING, fault=error)
        return compared(link, remote, folder=self._folder, checksum=checksum)

    def _fetched(self, item: Item) -> Arrival | tuple[Link, TransferError]:
        link = item.link
        checksum = self._checksums.get(link.file_name)
        final = self._folder / link.file_name
        expected = item.remote
        if item.state is State.CHECK and checksum is not None:
            if checksum.of(final, halted=self._halt.is_set) == checksum.digest:
                arrival = Arrival(file_name=link.file_name, size=item.have, checksum=str(checksum))
                self._record.add(arrival)
                return arrival
            expected = None  # what is known may be the length of the wrong file
        fetch = Fetch(
            link,
            PartialFile(final),
            expected=expected,
            checksum=checksum,
            client=self._client,
            policy=self._policy,
            halt=self._halt,
            reached=lambda here: self._board.reach(link.file_name, here),
        )
        with self._board.working(fetch):
            try:
                arrival = fetch.run()
            except TransferError as error:
                return link, error
        self._record.add(arrival)
        return arrival

    def _all(
        self,
        work: Callable[[Given], Made],
        items: Sequence[Given],
        *,
        done: Callable[[Made], None],
    ) -> list[Made]:
        """Map `work` over `items` in threads, in no order; the first exception stops all."""
        results: list[Made] = []
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="download") as pool:
            waiting: set[Future[Made]] = {pool.submit(work, item) for item in items}
            try:
                while waiting:
                    finished, waiting = wait(waiting, _LINE_SECONDS, FIRST_COMPLETED)
                    for future in finished:
                        results.append(future.result())
                        done(results[-1])
                    self._board.line()
            except BaseException:
                self._halt.set()
                pool.shutdown(wait=False, cancel_futures=True)
                self._board.interrupt()
                raise
        return results


class _Board:
    """The progress of all files. Called from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here: dict[str, int] = {}
        self._working: set[Fetch] = set()
        self._bar: Bar | None = None
        self._total = self._files = self._done = self._first = self._sum = 0
        self._begin = self._said = self._drawn = time.monotonic()

    def start(self, plan: DownloadPlan, *, files: int) -> None:
        """Take the lengths of a plan."""
        coming = plan.of(State.CONTINUE, State.FETCH, State.REPLACE)
        begun = {i.link.file_name: i.have for i in coming if i.state is State.CONTINUE}
        self._here = {i.link.file_name: begun.get(i.link.file_name, 0) for i in coming}
        self._first = self._sum = sum(self._here.values())
        self._total = self._first + plan.lacking
        self._files = files
        self._begin = self._said = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a bar, on a terminal."""
        with progress("downloading", total=self._total or None, is_bytes=True) as bar:
            self._bar = bar
            self._show()
            try:
                yield
            finally:
                self._bar = None

    @contextmanager
    def working(self, fetch: Fetch) -> Iterator[None]:
        """Count a file as on its way meanwhile."""
        with self._lock:
            self._working.add(fetch)
        try:
            yield
        finally:
            with self._lock:
                self._working.discard(fetch)

    def reach(self, name: str, here: int) -> None:
        """Note that so many bytes of a file are there."""
        with self._lock:
            self._sum += here - self._here.get(name, 0)
            self._here[name] = here
            # Bytes come in pieces of 16 kB: drawing after each would take longer than they do.
            if time.monotonic() - self._drawn > _DRAW_SECONDS:
                self._show()

    def file_done(self) -> None:
        """Count one more file that needs nothing more."""
        with self._lock:
            self._done += 1
            self._show()

    def lacking(self) -> int:
        """Return the bytes still to come."""
        with self._lock:
            return max(0, self._total - self._sum)

    def interrupt(self) -> None:
        """End all waiting for bytes."""
        with self._lock:
            working = list(self._working)
        for fetch in working:
            fetch.interrupt()

    def line(self) -> None:
        """Print a line now and then for those who keep a log instead of a terminal."""
        now = time.monotonic()
        if sys.stderr.isatty() or self._files == 0 or now - self._said < _LINE_SECONDS:
            return
        self._said = now
        here = self._sum
        speed = max(0.0, here - self._first) / (now - self._begin)
        print(
            f"{self._done:,} of {count(self._files, 'file')}, {decimal(here)} of "
            f"{decimal(self._total)}, {decimal(int(speed))}/s",
            file=sys.stderr,
            flush=True,
        )

    def _show(self) -> None:
        if self._bar is not None:
            self._drawn = time.monotonic()
            self._bar.reach(self._sum, note=f"{self._done} of {self._files} files")


def ways_out(failed: Sequence[tuple[Link, TransferError]], *, retry: Path, folder: Path) -> str:
    """Describe what to do about the files that failed."""
    lines = []
    if any(error.fault is Fault.EXPIRED for _, error in failed):
        lines.append(
            "expired links: save a new list from the licence page and run the same command with it"
        )
    lines.append(f"to try them again: python -m data_tools.download {retry} --out {folder}")
    return "\n".join(lines)
