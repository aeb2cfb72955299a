"""The slowest process and the one that waits most for photos: all others wait for them."""

from __future__ import annotations

import logging
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sam_train.runtime.dist import gather, world_size
from sam_train.runtime.dist import rank as own_rank
from sam_train.runtime.files import write_text
from sam_train.train.watch.config import HealthConfig

log = logging.getLogger("sam_train")


class Stopwatch:
    """Times the same work on every process, in which none waits for another.

    On a GPU it times by events, so that nothing waits for the device before `read`.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._units = 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, units: int, *, device: torch.device) -> Iterator[None]:
        """Add what happens inside, which is `units` of work."""
        self._units += units
        if device.type == "cuda":
            begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            # Events are queued with the kernels, so they time the GPU's work and not the host's.
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
            return
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def read(self) -> float:
        """Return seconds per unit since the last reading; waits for the device."""
        for begin, end in self._events:
            end.synchronize()
            # CUDA counts milliseconds.
            self._seconds += begin.elapsed_time(end) / 1000
        mean = self._seconds / max(1, self._units)
        self._seconds, self._units, self._events = 0.0, 0, []
        return mean


@dataclass(frozen=True, kw_only=True)
class RankFigures:
    """The figures of all processes since the last logging step."""

    slowest: int
    """The rank that takes longest for a mask's rounds."""
    slow_share: float
    """The slowest rank's time over the median rank's, from 1."""
    waiting: int
    """The rank that waits most for its photos."""
    data_wait: float
    """The share of that rank's time, 0 to 1."""

    def columns(self) -> dict[str, float]:
        """Return the columns for metrics.csv."""
        return {
            "slowest_rank": self.slowest,
            "slowest_rank_share": self.slow_share,
            "data_wait_rank": self.waiting,
            "data_wait_max": self.data_wait,
        }


def compare(work: Sequence[float], waits: Sequence[float]) -> RankFigures:
    """Find the slowest rank and the one that waits most.

    Args:
        work: each rank's time over the median's, see `shares`.
        waits: each rank's share of its time in which it waited for data.
    """
    slowest = max(range(len(work)), key=work.__getitem__)
    waiting = max(range(len(waits)), key=waits.__getitem__)
    return RankFigures(
        slowest=slowest, slow_share=work[slowest], waiting=waiting, data_wait=waits[waiting]
    )


def shares(seconds: Sequence[float]) -> list[float]:
    """Divide each rank's time for the same work by the median rank's."""
    # Of two ranks the faster one: the slower must not be its own measure.
    median = statistics.median_low(seconds)
    return [each / median if median > 0 else 1.0 for each in seconds]


class RankWatch:
    """Compares the processes on logging steps, and names one that holds the others up.

    ranks.csv in run_dir has each rank's figures at the newest logging step, and their means since
    the processes began.
    """

    def __init__(self, cfg: HealthConfig, *, run_dir: Path) -> None:
        self.cfg = cfg
        self.path = run_dir / "ranks.csv"
        self._hosts: list[str] = []
        self._over: dict[str, tuple[int, int]] = {}
        self._sums: list[list[float]] = []
        self._looks = 0

    def start(self) -> None:
        """Learn the machines' names. A collective: every rank calls it."""
        self._hosts = gather(socket.gethostname())

    def look(self, *, work: float, data_wait: float) -> RankFigures | None:
        """Compare the ranks' figures, in a collective; return None for a process that is alone."""
        if world_size() == 1:
            return None
        seconds, waits = zip(*gather((work, data_wait)), strict=True)
        # In shares of the median, so that columns of different models and machines compare.
        work_shares = shares(seconds)
        figures = compare(work_shares, waits)
        if own_rank() == 0:
            self.note(work_shares, waits)
            self.judge(figures)
        return figures

    def note(self, work: Sequence[float], waits: Sequence[float]) -> None:
        """Add the figures of all ranks to ranks.csv (first process only)."""
        self._looks += 1
        before = self._sums or [[0.0, 0.0] for _ in work]
        self._sums = [
            [total[0] + share, total[1] + wait]
            for total, share, wait in zip(before, work, waits, strict=True)
        ]
        lines = ["rank,host,work,data_wait,work_mean,data_wait_mean"]
        for rank, now in enumerate(zip(work, waits, strict=True)):
            # The mean of shares, not of seconds: a step with many masks weighs no more.
            mean = (total / self._looks for total in self._sums[rank])
            host = self._hosts[rank] if rank < len(self._hosts) else ""
            lines.append(",".join([str(rank), host, *(f"{x:.4g}" for x in (*now, *mean))]))
        # An atomic write: people watch this file while it is replaced.
        write_text(self.path, "\n".join(lines) + "\n")

    def summarise(self) -> None:
        """Log at the end of training who was slow and who waited on average."""
        if not self._looks:
            return
        means = [[total / self._looks for total in sums] for sums in self._sums]
        figures = compare([mean[0] for mean in means], [mean[1] for mean in means])
        log.info(
            "%s was the slowest, at %.2f times the median's time; %s waited most for photos, "
            "%.0f %% of its time; all ranks: %s",
            self._name(figures.slowest),
            figures.slow_share,
            self._name(figures.waiting),
            100 * figures.data_wait,
            self.path,
        )

    def judge(self, figures: RankFigures) -> None:
        """Warn of a rank that is over a limit at two logging steps in a row; once is chance."""
        cfg = self.cfg
        if self._again("slow", figures.slowest, figures.slow_share, cfg.slow_rank):
            log.warning(
                "%s is slow: it takes %.2f times as long as the median process for the same work, "
                "and all wait for it",
                self._name(figures.slowest),
                figures.slow_share,
            )
        if self._again("data", figures.waiting, figures.data_wait, cfg.data_wait):
            log.warning(
                "%s waits for photos %.0f %% of its time, and all wait for it: more data.workers, "
                "a faster disk or a copy on its own",
                self._name(figures.waiting),
                100 * figures.data_wait,
            )

    def _again(self, kind: str, rank: int, value: float, limit: float) -> bool:
        if limit == 0 or value <= limit:
            self._over.pop(kind, None)
            return False
        before, times = self._over.get(kind, (rank, 0))
        times = times + 1 if before == rank else 1
        self._over[kind] = rank, times
        # Exactly then: at every further look it would be the same line again.
        return times == 2

    def _name(self, rank: int) -> str:
        host = f" ({self._hosts[rank]})" if rank < len(self._hosts) else ""
        return f"rank {rank}{host}"
