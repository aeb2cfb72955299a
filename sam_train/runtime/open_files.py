"""The limit on files and connections that this process may hold open."""

from __future__ import annotations

import resource
from contextlib import suppress

ENOUGH = 1 << 16
"""Some programs close every number below the limit before they begin: at a billion, as containers
allow, that takes minutes."""


def allow_many() -> None:
    """Raise the limit that can be raised without asking: 1024 is usual, and a connection to each of
    some hundred ranks is an open file, as is each tensor that comes from a data worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < most:
        # macOS has another limit behind this one.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
