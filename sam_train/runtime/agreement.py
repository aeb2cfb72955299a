"""What all ranks must do at the same step, although only some of them know why."""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.distributed as dist

from sam_train.errors import UserError
from sam_train.runtime.mishaps import another_stopped
from sam_train.runtime.text import one_line

_shared: tuple[Any, Any] = (None, None)
"""torch's group of all ranks, and the one over gloo that belongs to it: each takes a connection to
every rank, so there is one for all agreements of a process."""


class Agreement:
    """The largest of what the ranks say.

    Over gloo on the host, also where gradients go over NCCL: nothing here waits for the GPU.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def start(self) -> None:
        """Every rank calls it, once the processes know each other.

        Raises:
            UserError: gloo cannot be started on this machine.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        self._group = _group_on_hosts()

    def largest(self, value: int) -> int:
        """Of all ranks; waits for the last of them."""
        if self._group is None:
            return value
        values = torch.tensor([value])
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._group)
        return int(values)

    def same(self, text: str) -> bool:
        """Whether every rank says the same."""
        number = zlib.crc32(text.encode())
        return self.largest(number) == -self.largest(-number)

    def gather(self, value: Any) -> list[Any]:
        """What each rank says, by rank; small things only."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._group)
        return values


def _group_on_hosts() -> Any:
    """All ranks over gloo; made by the first call since they know each other."""
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
