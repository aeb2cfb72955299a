"""Host values over all ranks: gather, largest, barrier.

They travel over gloo, also where gradients go over NCCL, so nothing here waits for the GPU. Every
rank must make the same calls in the same order. Sums of device tensors belong to their owners.
"""

from __future__ import annotations

import zlib
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sam_train.errors import UserError
from sam_train.runtime.mishaps import another_stopped
from sam_train.runtime.text import one_line

Value = TypeVar("Value")

_shared: tuple[Any, Any] = (None, None)
"""torch's group of all ranks, and the gloo group that belongs to it. A group takes a connection to
every rank, so there is one for the whole process."""


def rank() -> int:
    """Return this process's number; 0 where it is alone."""
    return dist.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes that know each other; 1 where this one is alone."""
    return dist.get_world_size() if _initialized() else 1


def start() -> None:
    """Connect all ranks over gloo, so that a network that refuses shows before the first step.

    Raises:
        UserError: gloo cannot be started on this machine.
    """
    if world_size() > 1:
        _group_on_hosts()


def largest(value: int) -> int:
    """Return the maximum of `value` over all ranks. Blocks until every rank has called it."""
    if world_size() == 1:
        return value
    values = torch.tensor([value])
    dist.all_reduce(values, dist.ReduceOp.MAX, group=_group_on_hosts())
    return int(values)


def same(text: str) -> bool:
    """Tell whether every rank passed the same text. Blocks as `largest` does."""
    number = zlib.crc32(text.encode())
    # Maximum equals minimum: two numbers travel instead of the texts.
    return largest(number) == -largest(-number)


def gather(value: Value) -> list[Value]:
    """Return the value of each rank, by rank; for small things. Blocks as `largest` does."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_group_on_hosts())
    return values


def barrier() -> None:
    """Block until every rank has called it."""
    largest(0)


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def _group_on_hosts() -> Any:
    """Return the gloo group of all ranks; the first call makes it."""
    global _shared  # noqa: PLW0603 - as torch's own groups
    world = dist.group.WORLD
    if dist.get_backend() == "gloo":
        return world
    if _shared[0] is not world:
        try:
            _shared = world, dist.new_group(backend="gloo")
        except RuntimeError as error:
            if another_stopped(error):
                raise
            raise UserError(
                f"gloo, by which the processes agree, cannot start here ({one_line(error)}): "
                "GLOO_SOCKET_IFNAME=NAME names the network to take, `ip address` lists them"
            ) from error
    return _shared[1]
