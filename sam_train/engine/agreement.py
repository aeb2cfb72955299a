"""What all ranks must do at the same step, although only some of them know why."""

from __future__ import annotations

import zlib
from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """The largest of what the ranks say.

    Over gloo on the host, also where gradients go over NCCL: nothing here waits for the GPU.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def start(self) -> None:
        """Every rank calls it, once the processes know each other."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return
        own = dist.get_backend() == "gloo"
        self._group = dist.group.WORLD if own else dist.new_group(backend="gloo")

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


__all__ = ["Agreement"]
