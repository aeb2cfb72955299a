"""A store of messages between all processes, in which every wait has an end."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from torch.distributed import HashStore, PrefixStore, TCPStore  # type: ignore[attr-defined]

from sam_train.cluster.doctor.place import JobRank
from sam_train.errors import UserError
from sam_train.runtime.text import one_line


class Meeting:
    """Messages by name between the ranks, through the first one's store."""

    def __init__(self, place: JobRank, *, seconds: float) -> None:
        """Raises:
        UserError: the first process does not answer at its address, or cannot listen there.
        """
        self.place = place
        self.seconds = seconds
        self.store: Any = _open(place, seconds)

    def say(self, name: str, message: bytes) -> None:
        """Store a message that any number of ranks may read, now or later."""
        self.store.set(name, message)

    def hear(self, name: str, *, seconds: float) -> bytes | None:
        """Wait for the message `name` and return it, or None if it does not come in time."""
        try:
            self.store.wait([name], timedelta(seconds=max(seconds, 0.001)))
            message: bytes = self.store.get(name)
            return message
        except RuntimeError:  # DistStoreError in time, DistNetworkError if the first one is gone
            return None

    def hear_all(self, name: str, *, seconds: float) -> dict[int, bytes]:
        """Collect the messages `name/RANK` that come within `seconds`, by rank."""
        end = time.monotonic() + seconds
        heard = {}
        for rank in range(self.place.ranks):
            message = self.hear(f"{name}/{rank}", seconds=end - time.monotonic())
            if message is not None:
                heard[rank] = message
        return heard


def _open(place: JobRank, seconds: float) -> Any:
    if place.ranks == 1:
        return HashStore()
    try:
        store = TCPStore(
            place.address,
            place.port,
            is_master=place.rank == 0 and not place.hosted,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        raise UserError(
            f"rank {place.rank} on {place.node} does not reach the first process at "
            f"{place.address}:{place.port} ({one_line(error)}): is that its address in a network "
            "that both share, and is the port open between the nodes? MASTER_ADDR and MASTER_PORT "
            "choose others"
        ) from None
    # torchrun's own store outlives a restart, with the messages of the attempt before in it.
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"doctor/{life}", store)
