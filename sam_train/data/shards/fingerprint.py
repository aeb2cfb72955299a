"""A check that all ranks, and the runs that continue each other, see the same samples.

Which sample has which place is a function of how many there are. Where one rank sees fewer than
the others, samples are taken twice and others never, and nothing else would say so.
"""

from __future__ import annotations

import hashlib
import socket
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sam_train.errors import UserError
from sam_train.runtime.dist import gather


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Fingerprint of samples in their order, wherever their shards lie and whatever those are
    called."""

    shards: int
    samples: int | None
    """None: only counted while they are read."""
    digest: str

    def __str__(self) -> str:
        counted = "" if self.samples is None else f"{self.samples:,} samples in "
        shards = f"{self.shards:,} shard{'' if self.shards == 1 else 's'}"
        return f"{counted}{shards} (mark {self.digest})"


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Hash the parts to a few letters, which differ where the parts do."""
    # Eight letters, to be compared by eye in a log; it guards against mistakes, not against malice.
    made = hashlib.blake2b(digest_size=4)
    for part in parts:
        made.update(part)
    return made.hexdigest()


def require_same(own: Fingerprint, *, option: str) -> None:
    """Refuse a rank whose samples differ. Every rank calls it at the same time.

    Args:
        option: the setting that the samples come from (`data.train`).

    Raises:
        UserError: the ranks do not see the same samples; in the same words on all of them.
    """
    said = gather((socket.gethostname(), own))
    # The majority: naming the odd rank helps more than naming the first two that differ.
    usual = Counter(seen for _, seen in said).most_common(1)[0][0]
    others = [rank for rank, (_, seen) in enumerate(said) if seen != usual]
    if not others:
        return
    node, seen = said[others[0]]
    raise UserError(
        f"{option}: {len(others)} of {len(said)} ranks see other samples, the first is rank "
        f"{others[0]} on {node}: {seen}, most have {usual}; make the shards, their index and the "
        "lists of data.exclude and data.include the same on all nodes."
    )
