"""The common parts of the fuzz tests: number of inputs, true inputs with damage, bound on memory.

A few hundred inputs, always the same ones, run with every other test. `make fuzz` runs 100,000 of
each kind; SAM_TRAIN_FUZZ=N says how many.
"""

from __future__ import annotations

import os
import resource
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

P = ParamSpec("P")
T = TypeVar("T")

LONG = int(os.environ.get("SAM_TRAIN_FUZZ", "0"))


def fuzz(*, short: int, each: int = 1) -> settings:
    """Set how many inputs a test draws; few are the same everywhere.

    Args:
        each: inputs that are drawn at a time, on average.
    """
    return settings(
        max_examples=LONG // each or short,
        derandomize=not LONG,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True, slots=True)
class Edit:
    """One thing that happens to a string of bytes."""

    kind: int
    at: int
    """Anything; taken modulo the length."""
    payload: bytes

    def apply(self, data: bytes) -> bytes:
        """Return the bytes with the edit."""
        at = self.at % (len(data) + 1)
        after = at + len(self.payload)
        return (
            data[:at] + self.payload + data[after:],  # overwritten
            data[:at] + self.payload + data[at:],  # inserted
            data[:at] + data[after:],  # lost
            data[:at],  # cut
            data[:at] + bytes(b ^ 1 << (self.at % 8) for b in data[at : at + 1]) + data[at + 1 :],
            data[:after] + data[at:],  # repeated
        )[self.kind]


_ANY_BYTES = st.binary(max_size=8)


def edits(
    *, most: int = 4, payload: st.SearchStrategy[bytes] = _ANY_BYTES
) -> st.SearchStrategy[list[Edit]]:
    """Draw none to some edits: true inputs must be among what is drawn."""
    one = st.builds(Edit, st.integers(0, 5), st.integers(0, 1 << 16), payload)
    return st.lists(one, max_size=most)


def damaged(data: bytes, changes: list[Edit]) -> bytes:
    """Return the bytes after all edits, one after the other."""
    for change in changes:
        data = change.apply(data)
    return data


def within(most: int, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return a function's result; fail if it ever held more than `most` bytes of Python's and
    numpy's memory."""
    tracemalloc.start()
    try:
        return function(*args, **kwargs)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= most, f"{peak} bytes held, {most} allowed"


@contextmanager
def address_space(room: int) -> Iterator[None]:
    """Limit memory to `room` bytes beyond what is mapped: an absurd allocation is a MemoryError at
    once, whoever makes it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
