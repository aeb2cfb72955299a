"""The progress of this process, noted by its main thread and read by the watchdog's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

STAGES = ("start", "forward", "backward", "update", "measuring", "between steps", "end")
"""Stages of a step, in order; two ranks are compared by step and stage."""


@dataclass(slots=True)
class Pulse:
    """The latest sign of progress."""

    step: int = 0
    """Finished updates."""
    stage: str = STAGES[0]
    at: float = field(default_factory=time.monotonic)
    """`time.monotonic()` of it."""
    longest: float = 0.0
    """Seconds between two of them, so far."""
    steps: int = 0
    """Finished by this process, since its start."""
    in_use: dict[str, float] = field(default_factory=dict)
    """Bytes before the first step, by kind of memory."""

    def restart(self) -> None:
        """Begin anew, for a run in this process."""
        self.step, self.stage, self.at = 0, STAGES[0], time.monotonic()
        self.longest, self.steps = 0.0, 0
        self.in_use.clear()

    def beat(self, stage: str, *, step: int | None = None) -> None:
        """Note that `stage` is reached."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self.at)
        if step is not None:
            self.steps += step > self.step
            self.step = step
        self.stage, self.at = stage, now

    def forgive(self, seconds: float) -> None:
        """Do not count a time in which this process was not allowed to run."""
        self.at = min(self.at + seconds, time.monotonic())

    @property
    def stalled(self) -> float:
        """Seconds since the latest sign."""
        return time.monotonic() - self.at

    def patience(self, limit: float) -> float:
        """Seconds without a sign after which this process is stuck: `limit`, longer where it is
        known to need longer, and twice as long while nothing is known (compilation, cold disks)."""
        known = max(1.5 * self.longest, min(5 * self.longest, 4 * limit))
        return max(limit if self.steps else 2 * limit, known)


PULSE = Pulse()
"""The pulse of this process: what takes long lies deep in parts that know of no watchdog."""


def beating(parts: Iterable[T], *, stage: str) -> Iterator[T]:
    """Yield the parts of a long job, each of them as a sign of progress."""
    for part in parts:
        PULSE.beat(stage)
        yield part
