"""Lets one run at a time into a run_dir, on whatever file system and whichever machines.

`run_dir/owners/N.json` describes the N-th process that trained there; the newest is the owner.
Becoming the next is making file N + 1, which a file system lets one process do only, so nothing is
ever removed to make room and two that find the same owner dead cannot both follow it.

An owner is dead if it says so itself (it ended), if its process is gone from this very machine, if
a later life of its own Slurm job asks, or if its file has not changed for `PATIENCE` seconds of the
asking process's own clock: clocks of two machines are never compared. The owner counts its beats
in the file from a thread, which C code that lets go of the interpreter does not hold up.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sam_train.errors import UserError
from sam_train.runtime.files import create
from sam_train.runtime.log import rank_zero
from sam_train.runtime.mishaps import one_line
from sam_train.runtime.processes import Process

log = logging.getLogger("sam_train")

FOLDER = "owners"
"""The folder in run_dir that has `N.json` for the N-th process that trained there."""
BEAT, PATIENCE = 5.0, 60.0
"""Seconds between signs of life, and without one until an owner elsewhere counts as dead."""
KEPT = 8
"""Files kept: enough that nobody who looked a while ago can become an earlier owner."""
TOKEN = "SAM_TRAIN_OWNER"
"""Environment variable by which the processes that an owner starts know that they belong to it."""
_SIZE = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The content of an owner's file."""

    process: Process
    since: str
    """Local time, for people."""
    token: str
    beat: int = 0
    ended: bool = False

    def text(self) -> bytes:
        """Return it as JSON of one length always: it is written over in place."""
        return json.dumps(asdict(self)).ljust(_SIZE - 1).encode() + b"\n"

    @classmethod
    def parse(cls, text: bytes) -> Record | None:
        """Return what `text` says; None if it is not written to its end."""
        try:
            content: dict[str, Any] = json.loads(text)
            known = {field.name for field in fields(Process)}
            given = {k: v for k, v in content.pop("process").items() if k in known}
            return cls(process=Process(**given), **content)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


class RunOwner:
    """The right to write a run_dir, from `take` until `release`."""

    def __init__(self, run_dir: Path, *, me: Process | None = None, beat: float = BEAT) -> None:
        """Args:
        run_dir: exists and can be written.
        me: the process that asks; this one, unless a test plays another machine.
        beat: seconds between signs of life.
        """
        self.run_dir = run_dir
        self.folder = run_dir / FOLDER
        self.me = me or Process.current()
        self.beat = beat
        self.path: Path | None = None
        self.lost = ""
        """The reason to stop writing, if another process has taken the place of this one."""
        self._record = Record(process=self.me, since="", token="")
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, *, patience: float = PATIENCE) -> None:
        """Become the owner, once the one before is dead.

        Raises:
            UserError: it is alive.
        """
        self.folder.mkdir(exist_ok=True)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._record = Record(process=self.me, since=since, token=uuid.uuid4().hex)
        while True:
            number, before = newest(self.folder)
            if before is not None and not is_dead(before, me=self.me, patience=patience):
                # Its file may have been half written before.
                raise UserError(refusal(self.run_dir, newest(self.folder)[1] or before))
            mine = self.folder / f"{number + 1}.json"
            if not create(mine, self._record.text()):
                continue
            if newest(self.folder)[0] <= number + 1:
                break
            # The name was free because it is long past: others came after it.
            mine.unlink(missing_ok=True)
        self.path = mine
        for old in _numbers(self.folder):
            if old <= number + 1 - KEPT:
                (self.folder / f"{old}.json").unlink(missing_ok=True)
        # Processes that Lightning starts inherit it, and so know that they belong to this owner.
        os.environ[TOKEN] = self._record.token
        self._thread = threading.Thread(target=self._beat, name="owner", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let the next one in at once. Nothing happens in a process that was forked off."""
        if self.path is None or os.getpid() != self.me.pid:
            return
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        if os.environ.get(TOKEN) == self._record.token:
            del os.environ[TOKEN]
        if not self.lost:
            # A disk that is full or gone: the process ends soon, and that is seen, too.
            with suppress(OSError):
                self._write(ended=True)
        self.path = None

    def _beat(self) -> None:
        while not self._end.wait(self.beat) and not self.lost:
            # A file system that does not answer for a while costs a heartbeat, not the run.
            with suppress(OSError):
                self._show_life()

    def _show_life(self) -> None:
        assert self.path is not None
        number, owner = newest(self.folder)
        if owner is None or number < int(self.path.stem):
            # Somebody cleared the folder away.
            self.folder.mkdir(exist_ok=True)
            create(self.path, self._record.text())
        elif number > int(self.path.stem) or _record(owner).token != self._record.token:
            self.lost = _lost(self.run_dir, owner)
            log.error("%s", self.lost)
        else:
            self._write(ended=False)

    def _write(self, *, ended: bool) -> None:
        old = self._record
        self._record = Record(
            process=old.process,
            since=old.since,
            token=old.token,
            beat=old.beat + 1,
            ended=ended,
        )
        assert self.path is not None
        # Opened and closed each time: that is when network file systems pass it on.
        handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            # One write of constant length: a reader never finds a shorter text's tail behind a
            # longer one.
            os.pwrite(handle, self._record.text(), 0)
        finally:
            os.close(handle)


@contextmanager
def owned(run_dir: Path) -> Iterator[RunOwner | None]:
    """Hold `run_dir` during a run in the first process; check in the others that they belong to it.

    Yields:
        The ownership in the first process, None in the others.

    Raises:
        UserError: another run owns it; in the other ranks, too, so that none waits for the first.
    """
    if not rank_zero():
        follow(run_dir)
        yield None
        return
    owner = RunOwner(run_dir)
    with one_line(run_dir):
        owner.take()
    try:
        yield owner
    finally:
        owner.release()


def follow(run_dir: Path, *, me: Process | None = None, patience: float = PATIENCE) -> None:
    """Refuse a rank whose first process will be refused.

    Raises:
        UserError: a run of other processes owns `run_dir`.
    """
    me = me or Process.current()
    while True:
        number, owner = newest(run_dir / FOLDER)
        if owner is None or _is_ours(_record(owner), me):
            return
        if not is_dead(owner, me=me, patience=patience):
            # The first process may have taken its place meanwhile.
            if newest(run_dir / FOLDER)[0] == number:
                raise UserError(refusal(run_dir, owner))
        elif newest(run_dir / FOLDER)[0] == number:
            return


def _is_ours(record: Record, me: Process) -> bool:
    same_team = record.process.team == me.team and not record.ended
    return same_team or record.token == os.environ.get(TOKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An owner's file at one moment."""

    path: Path
    text: bytes


def newest(folder: Path) -> tuple[int, Seen | None]:
    """Return the number and the file of the newest owner; 0 and None where there was none."""
    while numbers := _numbers(folder):
        path = folder / f"{max(numbers)}.json"
        try:
            return max(numbers), Seen(path=path, text=path.read_bytes())
        except FileNotFoundError:
            continue
    return 0, None


def is_dead(seen: Seen, *, me: Process, patience: float = PATIENCE) -> bool:
    """Tell whether an owner writes no more; wait up to `patience` seconds if only time can tell."""
    record = Record.parse(seen.text)
    if record is not None:
        process = record.process
        if record.ended or (process.job and process.job == me.job and process.life < me.life):
            return True
        if process.machine and process.machine == me.machine:
            return not process.is_alive()
        log.warning(
            "%s: waiting up to %.0f s for a sign of life of %s",
            seen.path.parent.parent,
            patience,
            describe(record),
        )
    until = time.monotonic() + patience
    while time.monotonic() < until:
        time.sleep(min(1.0, patience / 20))
        _, now = newest(seen.path.parent)
        if now is None or now.path != seen.path:
            return True
        if now.text != seen.text:
            # A first heartbeat, or the rest of a file that was being written.
            return is_dead(now, me=me, patience=patience) if record is None else _ended(now)
    return True


def describe(record: Record) -> str:
    """Return who an owner is, for people."""
    process = record.process
    job = f" (Slurm job {process.job.rpartition('/')[2]})" if process.job else ""
    return f"process {process.pid} on {process.host}{job}"


def refusal(run_dir: Path, seen: Seen) -> str:
    """Return the line that a second run ends with."""
    record = _record(seen)
    return (
        f"run_dir={run_dir} is in use since {record.since} by {describe(record)}: wait for its "
        "end, stop it (the same command then goes on), or choose another with run_dir="
    )


def _lost(run_dir: Path, seen: Seen) -> str:
    record = _record(seen)
    return (
        f"run_dir={run_dir} was taken over at {record.since} by {describe(record)}, which had no "
        f"sign of life of this process for {PATIENCE:.0f} s or is its job's next life: this one "
        "stops and writes no more"
    )


def _record(seen: Seen) -> Record:
    """Read an owner's file, or fill in unknowns where it is not complete."""
    nobody = Process(host="an unknown host", machine="", pid=0, started="")
    unknown = Record(process=nobody, since="an unknown time", token="")
    return Record.parse(seen.text) or unknown


def _ended(seen: Seen) -> bool:
    record = Record.parse(seen.text)
    return record is not None and record.ended


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()]
    except FileNotFoundError:
        return []
