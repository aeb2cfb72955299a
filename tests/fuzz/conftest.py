"""Every fuzz test runs with little address space left."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from fuzzing import address_space


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A gigabyte for hypothesis, the test and what it tests together."""
    if sys.platform != "linux":
        yield
        return
    with address_space(1 << 30):
        yield
