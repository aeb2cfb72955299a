"""Waiting for what another thread or process does, on a machine that may do other work as well."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0
"""Seconds: a bound for what never comes, not a time that anything should take."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition` holds.

    Raises:
        AssertionError: it did not hold in time; says `what` was waited for.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:g} s in vain for {what}"
        time.sleep(0.02)
