"""Locks of the kernel on files: freed when their process ends, in whatever way.

They hold among the machines that mount a folder where its file system passes locks on. A run_dir,
which must be safe where it does not, has an owner instead (`run_owner`).
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def try_lock(path: Path) -> BinaryIO | None:
    """Open `path` for reading and appending, and lock it until it is closed.

    Returns:
        None while another process holds the lock.

    Raises:
        OSError: the file cannot be opened, or its file system has no locks.
    """
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    # Append mode opens at the end; whoever holds the lock reads first.
    file.seek(0)
    return file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` inside; wait for whoever holds it."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
