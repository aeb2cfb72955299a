"""What the processes of a run tell each other about the data."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

Value = TypeVar("Value")


def gather(value: Value) -> list[Value]:
    """What each rank says, by rank; small things only. Every rank calls it at the same time."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value] # all are filled in
