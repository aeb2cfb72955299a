"""Heartbeats: a small file per process, rewritten every few seconds, with its progress.

They are files in run_dir, because torch's store dies with the first process. No two machines'
clocks are compared: a process lives if its counter moves.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from sam_train.runtime.files import write_text

_WAITING = ("torch/distributed/", "sam_train/runtime/dist.py")
"""Files of torch and ours in which a process waits for another."""
_PACKAGE = f"{Path(__file__).resolve().parents[2]}{os.sep}"


@dataclass(slots=True, kw_only=True)
class Heartbeat:
    """The content of a process's heartbeat file."""

    rank: int
    host: str
    pid: int
    started: int = 0
    """Start of the process as the kernel counts it: pids are used again."""
    count: int = 0
    """Heartbeats so far."""
    step: int = 0
    stage: str = ""
    stuck: bool = False
    """True where its main thread has been stalled for longer than it ever should."""
    state: str = "running"
    """running, alarm (agrees that the run hangs), spoken (has said so) or ended."""
    where: str = ""
    """Place of its main thread in the code."""
    waits: bool = False
    """True where that place is a call that waits for another process."""


class Heartbeats:
    """The files of all processes of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, beat: Heartbeat) -> None:
        """Write a heartbeat; a disk that refuses must not end the run."""
        with suppress(OSError):
            write_text(self._path(beat.rank), json.dumps(asdict(beat)))

    def read(self, world_size: int) -> dict[int, Heartbeat]:
        """Read the heartbeat of each rank that has written one."""
        found: dict[int, Heartbeat] = {}
        for rank in range(world_size):
            # A rank may not have begun, or may run another version whose fields differ.
            with suppress(OSError, ValueError, TypeError):
                found[rank] = Heartbeat(**json.loads(self._path(rank).read_text()))
        return found

    def close(self, world_size: int) -> None:
        """Remove them all once every process has ended; the last to end does it."""
        found = self.read(world_size)
        # The ranks end in any order, and a file that is gone too early reads as a process that
        # never gave a sign.
        if len(found) < world_size or any(beat.state != "ended" for beat in found.values()):
            return
        with suppress(OSError):
            for path in self.folder.iterdir():
                path.unlink(missing_ok=True)
            self.folder.rmdir()

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank={rank}.json"


def silent(
    before: Mapping[int, Heartbeat], after: Mapping[int, Heartbeat], world_size: int
) -> list[int]:
    """List the ranks whose counter did not move between two looks, or that never wrote."""
    return [
        rank
        for rank in range(world_size)
        if rank not in after
        or (
            # A process that ended by itself writes no more, which is no silence.
            after[rank].state != "ended"
            and rank in before
            and before[rank].count == after[rank].count
        )
    ]


def started(pid: int) -> int:
    """Return the kernel's start time of a process, 0 where it cannot be told."""
    return int(_stat(pid)[19]) if _stat(pid) else 0


def condition(beat: Heartbeat) -> str:
    """Describe the state of a silent process of this machine, by the kernel, for a sentence."""
    fields = _stat(beat.pid)
    # Another process may have the number by now.
    if not fields or started(beat.pid) != beat.started:
        return f"is gone (pid {beat.pid})"
    what = {
        "T": "is stopped by a signal",
        "t": "is stopped by a debugger",
        "D": "waits for the kernel, as for a disk",
        "Z": "is dead",
        # R or S: its other threads are free to run, so one thread keeps the interpreter's lock.
    }.get(fields[0], "runs code that lets no other thread run")
    return f"{what} (pid {beat.pid})"


def kill(beat: Heartbeat) -> None:
    """End a silent process of this machine, which would keep its GPU for ever."""
    with suppress(OSError):
        # Where the start time is unknown, the number may belong to somebody else's process.
        if beat.started and started(beat.pid) == beat.started:
            os.kill(beat.pid, signal.SIGKILL)


def main_frame() -> FrameType | None:
    """Return the innermost frame of the main thread."""
    return sys._current_frames().get(threading.main_thread().ident or 0)


def place(frame: FrameType | None) -> tuple[str, bool]:
    """Describe a thread's place in the code, and tell if it waits there for another process."""
    frames = traceback.extract_stack(frame)[::-1] if frame is not None else []
    if not frames:
        return "", False
    # The innermost says what it does, the innermost of ours why.
    ours = next((f for f in frames if f.filename.startswith(_PACKAGE)), frames[0])
    words = [_name(f) for f in ([ours] if ours is frames[0] else [frames[0], ours])]
    # Four frames: torch wraps a collective in decorators, and outer ones are the caller's own
    # work.
    waits = any(part in f.filename for f in frames[:4] for part in _WAITING)
    return ", called by ".join(words), waits


def stacks() -> str:
    """Format the stacks of all threads of this process, the main thread's first."""
    frames = sys._current_frames()
    threads = sorted(threading.enumerate(), key=lambda t: t is not threading.main_thread())
    parts = [
        f"thread {t.name}\n{''.join(traceback.format_stack(frames[t.ident]))}"
        for t in threads
        if t.ident in frames
    ]
    return "\n".join(parts)


def _name(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename)
    return f"{frame.name} ({path.parent.name}/{path.name}:{frame.lineno})"


def _stat(pid: int) -> list[str]:
    """Read /proc/PID/stat from its third field, the state, on; empty where there is none."""
    try:
        # The second field is the program's name in brackets, and may hold blanks and brackets
        # itself.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
