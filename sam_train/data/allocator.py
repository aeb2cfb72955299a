"""How a worker's memory allocator treats what a sample leaves behind."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's <malloc.h>."""
LARGEST_BLOCK, KEPT = 1 << 28, 1 << 29
"""Bytes: blocks up to the first come from memory that was used before; up to the second of it
stays with the process when it is free."""


def keep_freed_memory() -> bool:
    """Let this process use again what it frees, instead of giving it back after each sample.

    By default glibc returns a large block to the system as soon as it is free. The next sample's
    arrays are then new pages, each zeroed at its first touch: 3,400 faults and 6 of 20 ms for a
    photo of 1500 x 2250 (docs/benchmarks/data.md).

    Returns:
        Whether it took effect; elsewhere than with glibc it changes nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # A threshold set by hand also ends glibc's own adaptation of both.
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK) and mallopt(M_TRIM_THRESHOLD, KEPT))


def start_worker(_worker: int) -> None:
    """A `worker_init_fn`: what a loader's process does first."""
    keep_freed_memory()
