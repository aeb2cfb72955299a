"""Parts of a data set that is divided by its folders or lists: train, val and test."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TRAIN, VAL, TEST = "train", "val", "test"

_WORDS = {
    TRAIN: ("train", "training", "trainset", "trn"),
    VAL: ("val", "valid", "validation", "valset", "dev", "eval"),
    TEST: ("test", "testing", "testset"),
}
_PART_OF = {word: part for part, words in _WORDS.items() for word in words}
_NAMED = re.compile(
    rf"(?:^|[_\-. ])(?P<word>(?P<part>{'|'.join(_PART_OF)})(?:\d{{4}})?)(?:$|[_\-. ])", re.I
)

_WANTED = {
    "data.train": (TRAIN, VAL, TEST),
    "data.val": (VAL, TEST, TRAIN),
    "eval.datasets": (VAL, TEST, TRAIN),
}
"""The part that a setting reads of a divided data set; the first one that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a data set."""

    name: str
    """TRAIN, VAL or TEST."""
    images: Path
    annotations: Path
    path: Path | None = None
    """The path that stands for this part alone in `NAME:PATH`; None where no path does."""


def part_of(word: str) -> str | None:
    """Return the part that a folder or list of this name is; None where it is none."""
    return _PART_OF.get(word.lower())


def part_in(name: str) -> tuple[str, str] | None:
    """Return the part that stands in a file's name and its word there: `instances_val2017`."""
    found = _NAMED.search(name)
    return None if found is None else (_PART_OF[found["part"].lower()], found["word"])


def part_folders(folder: Path) -> dict[str, Path]:
    """Return the folders directly below one that are called as parts, by part."""
    found: dict[str, Path] = {}
    if folder.is_dir():
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            part = part_of(entry.name)
            if part is not None and entry.is_dir():
                found.setdefault(part, Path(entry.path))
    # A lone folder `test` is a name like another, not a division.
    return found if TRAIN in found or len(found) > 1 else {}


def chosen_part(parts: Sequence[Part], setting: str) -> Part | None:
    """Return the part that a setting reads, None where the data set has no parts."""
    by_name = {part.name: part for part in reversed(parts)}
    return next((by_name[name] for name in wanted(setting) if name in by_name), None)


def wanted(setting: str) -> tuple[str, ...]:
    """Return the parts in the order in which a setting takes them."""
    return _WANTED.get(setting, (TRAIN, VAL, TEST))


def some_files(folder: Path, endings: Sequence[str], *, most: int = 32) -> Iterator[Path]:
    """Yield a few files of some endings below a folder, hidden ones left out.

    A look must not take the minutes that listing a million files takes.
    """
    left = most
    for root, below, names in os.walk(folder):
        # In place, which is how `os.walk` is told where to go.
        below[:] = sorted(one for one in below if not one.startswith((".", "__")))
        for name in sorted(names):
            if name.lower().endswith(tuple(endings)) and not name.startswith("."):
                yield Path(root, name)
                left -= 1
                if not left:
                    return
