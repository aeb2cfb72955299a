"""What can go wrong inside Lightning that is no fault of the program, in one line each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sam_train.errors import UserError

_WRITTEN_BY_FIT = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")
# Gloo reports a lost peer as a plain RuntimeError.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo")


@contextmanager
def one_line() -> Iterator[None]:
    """Around the Trainer: a process that lost the others says so instead of a traceback.

    The process that failed first says why on its own; this one only must not bury that line.

    Raises:
        UserError: another process of the run is gone.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or any(sign in str(error) for sign in _LOST)
        if not (dist.is_available() and dist.is_initialized() and lost):
            raise
        raise UserError(
            "another process of this run stopped: its message says why; the newest checkpoint "
            "continues the run"
        ) from error


def check_resumable(path: str | Path, module: torch.nn.Module) -> None:
    """Refuse to continue from a file that Lightning would stumble over. Reads no weights.

    Raises:
        UserError: not a checkpoint of `fit`, or one of another model.
    """
    way_out = "give resume= another checkpoint of the run, or resume=never to start afresh"
    try:
        content: Any = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{path} cannot be read as a checkpoint ({reason[0][:100]}): it is damaged or "
            f"something else; {way_out}"
        ) from error
    if not isinstance(content, dict) or any(key not in content for key in _WRITTEN_BY_FIT):
        raise UserError(
            f"{path} holds no training state to continue: {way_out}; weights alone go to init_from="
        )
    own, stored = module.state_dict(), content["state_dict"]
    for name in own.keys() | stored.keys():
        here, there = (tuple(s[name].shape) if name in s else None for s in (own, stored))
        if here != there:
            raise UserError(
                f"{path} is of another model ({name} is {there or 'missing'} in it, "
                f"{here or 'missing'} here): set model= as in the run's config.yaml, or {way_out}"
            )
