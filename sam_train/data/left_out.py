"""Images, masks and files that were left out, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sam_train.runtime.text import count


class SkipImageError(Exception):
    """This image cannot be converted; the run continues without it."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        """A few words, the same for all of a kind, because the summary counts by it."""
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """An image or mask that was left out."""

    kind: str
    """`image`, `mask` or `file` (one that is neither, or that no image needs)."""
    reason: str
    """A few words, the same for all of a kind, because the summary counts by it."""
    name: str
    """The file, and where in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """The number of things that were left out, or read, for one reason."""

    kind: str
    reason: str
    count: int
    names: list[str]
    """The first few."""

    def line(self, verb: str) -> str:
        """Return a line for people, with the first names and how many more there are."""
        rest = self.count - len(self.names)
        names = "; ".join(self.names) + (f"; and {rest} more" if rest else "")
        return f"{verb} {count(self.count, self.kind)}, {self.reason}: {names}"


NAMES_SHOWN = 3


def reasons_of(skips: Iterable[Skip]) -> list[Reason]:
    """Group skips by kind and reason, the most frequent reasons of a kind first."""
    names: dict[tuple[str, str], list[str]] = {}
    for skip in skips:
        names.setdefault((skip.kind, skip.reason), []).append(skip.name)
    return [
        Reason(kind=kind, reason=reason, count=len(found), names=found[:NAMES_SHOWN])
        for (kind, reason), found in sorted(
            # The last key, the reason itself, makes the order independent of what was read first.
            names.items(),
            key=lambda item: (item[0][0], -len(item[1]), item[0]),
        )
    ]
