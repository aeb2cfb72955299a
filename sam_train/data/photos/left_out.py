"""The error that leaves out one image of a data set."""

from __future__ import annotations


class SkipImageError(Exception):
    """This image cannot be converted; the run goes on without it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        """A few words, the same for all of a kind, because the summary counts by it."""
        self.detail = detail
