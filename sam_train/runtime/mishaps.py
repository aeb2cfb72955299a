"""Mishaps inside Lightning that are no fault of the program, in one line each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from sam_train.errors import UserError
from sam_train.runtime.text import one_line as text_of

# What a connection says when the process at its other end is gone, and nothing else.
_GONE = ("closed by peer", "reset by peer", "broken pipe")
# What gloo says when the other end does not answer: it is gone, or out of reach.
_SILENT = ("timed out", "timeout", "connection refused")


# What a disk says that the program cannot help: full, over the quota, over the limit of a file's
# size, failing, or suddenly read-only (as a failing disk becomes).
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def one_line(run_dir: Path) -> Iterator[None]:
    """Turn mishaps that are no fault of the program into one line instead of a traceback.

    The process that failed first says why on its own; one that lost it only must not bury that
    line.

    Raises:
        UserError: run_dir cannot be written any more, or another process of the run is gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        raise UserError(
            f"run_dir={run_dir} cannot be written any more ({error.strerror}): make room there and "
            "give the same command again, it goes on from the newest checkpoint"
        ) from error
    except RuntimeError as error:
        if not (dist.is_available() and dist.is_initialized() and another_stopped(error)):
            raise
        # Many ranks say the same line, which is counted; only what is not certain is worth more.
        certain = any(sign in str(error).lower() for sign in _GONE)
        raise UserError(
            "another process of this run stopped"
            + ("" if certain else f" or cannot be reached ({text_of(error)})")
            + ": its message says why; the newest checkpoint continues the run"
        ) from error


def another_stopped(error: RuntimeError) -> bool:
    """Tell whether the error is one that the loss of another process leaves behind."""
    # Gloo has no kind of error of its own, but names its files.
    said = str(error).lower()
    gloo = "gloo" in said and any(sign in said for sign in _SILENT)
    return isinstance(error, dist.DistError) or gloo or any(sign in said for sign in _GONE)
