"""What can go wrong inside Lightning that is no fault of the program, in one line each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from sam_train.errors import UserError

# Gloo reports a lost peer as a plain RuntimeError.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo")


# What a disk says that the program cannot help: full, over the quota, over the limit of a file's
# size, failing, or suddenly read-only (as a failing disk becomes).
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def one_line(run_dir: Path) -> Iterator[None]:
    """Around the Trainer: what is no fault of the program ends in a line, not in a traceback.

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
        lost = isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)
        if not (dist.is_available() and dist.is_initialized() and lost):
            raise
        raise UserError(
            "another process of this run stopped: its message says why; the newest checkpoint "
            "continues the run"
        ) from error


__all__ = ["one_line"]
