"""The progress of this process, noted by its main thread and read by the watchdog's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

STAGES = ("start", "forward", "backward", "update", "measuring", "between steps", "end")
"""The stages of a step, in order. The progress of two ranks is compared by step and stage."""


@dataclass(slots=True)
class Pulse:
    """The latest sign of progress."""

    step: int = 0
    """Finished updates."""
    stage: str = STAGES[0]
    at: float = field(default_factory=time.monotonic)
    """`time.monotonic()` of the latest sign."""
    longest: float = 0.0
    """The most seconds between two signs, so far."""
    steps: int = 0
    """Updates finished by this process, since its start."""
    in_use: dict[str, float] = field(default_factory=dict)
    """Bytes before the first step, by kind of memory."""

    def restart(self) -> None:
        """Forget an earlier run of this process."""
        self.step, self.stage, self.at = 0, STAGES[0], time.monotonic()
        self.longest, self.steps = 0.0, 0
        self.in_use.clear()

    def beat(self, stage: str, *, step: int | None = None) -> None:
        """Note that `stage` is reached."""
        now = time.monotonic()
        self.longest = max(self.longest, now - self.at)
        if step is not None:
            # A resumed run begins at a high step, of which this process did none.
            self.steps += step > self.step
            self.step = step
        self.stage, self.at = stage, now

    def forgive(self, seconds: float) -> None:
        """Discard a time in which this process was not allowed to run."""
        # Never in the future: the main thread may have beaten meanwhile.
        self.at = min(self.at + seconds, time.monotonic())

    @property
    def stalled(self) -> float:
        """Seconds since the latest sign."""
        return time.monotonic() - self.at

    def patience(self, limit: float) -> float:
        """Return the seconds without a sign after which this process is stuck.

        That is `limit`, or longer where it is known to need longer.
        """
        # Five times the longest gap, but at most four limits; always more than the gap itself, or a
        # slow evaluation would be killed every time.
        known = max(1.5 * self.longest, min(5 * self.longest, 4 * limit))
        # The first step compiles and reads cold disks, for which no gap is known yet.
        return max(limit if self.steps else 2 * limit, known)


PULSE = Pulse()
"""The pulse of this process. Parts that take long note it, and know of no watchdog."""


def beating(parts: Iterable[T], *, stage: str) -> Iterator[T]:
    """Yield the parts of a long job, each of them a sign of progress."""
    for part in parts:
        PULSE.beat(stage)
        yield part
