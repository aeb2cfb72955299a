"""The list of links that the licence page gives: reading it, choosing from it, writing what failed.

Meta's list is a TSV with the columns `file_name` and `cdn_link`, a line a tar. Its links are signed
and expire; a new list from the same page has the same names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sam_train.errors import UserError
from sam_train.runtime.files import write_bytes

NAME_COLUMN, LINK_COLUMN = "file_name", "cdn_link"
FAILED = "failed.tsv"
_MAX_BYTES = 1 << 26
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True, slots=True)
class Link:
    """A file to fetch."""

    file_name: str
    """Plain name without folders."""
    url: str
    """The link with its signature: never print it whole."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that did not arrive."""

    link: Link
    reason: str


def read_links(path: Path) -> list[Link]:
    """Read the files of a list, in the order of their names.

    The columns are found by the header, or are the first two where there is none; further columns
    are passed over, so that `failed.tsv` is a list again. Tabs may have become spaces.

    Raises:
        UserError: no such file, no list of links, or a name that is not safe to write.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read the list of links {path}: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if len(raw) > _MAX_BYTES or not text.strip() or text.lstrip().startswith("<"):
        raise UserError(
            f"{path} is no list of links: save the text file that the licence page offers, "
            f"with the columns {NAME_COLUMN} and {LINK_COLUMN}"
        )
    rows = [(n, line.split()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    head = [cell.lower() for cell in rows[0][1]]
    name_at, link_at = 0, 1
    if NAME_COLUMN in head and LINK_COLUMN in head:
        name_at, link_at = head.index(NAME_COLUMN), head.index(LINK_COLUMN)
        rows = rows[1:]
    found: dict[str, Link] = {}
    for number, cells in rows:
        where = f"{path}, line {number}"
        if len(cells) <= max(name_at, link_at):
            raise UserError(f"{where}: expected a file name, a tab and a link")
        link = _checked(Link(cells[name_at], cells[link_at]), where=where)
        if found.setdefault(link.file_name, link) != link:
            raise UserError(f"{where}: {link.file_name} has two links; leave one of them")
    if not found:
        raise UserError(f"{path} names no files: get the list again from the licence page")
    return [found[name] for name in sorted(found)]


def _checked(link: Link, *, where: str) -> Link:
    name = link.file_name
    # The list is not ours: a name must never lead out of the folder, nor to this tool's own files.
    if not _NAME.fullmatch(name) or name.endswith((".part", ".part.json", ".tsv")):
        raise UserError(f"{where}: {name[:80]!r} is not taken as a file name")
    if not link.url.lower().startswith(("https://", "http://")):
        raise UserError(f"{where}: the link of {name} does not begin with https:// or http://")
    return link


def select(links: Sequence[Link], *, only: str | None, limit: int | None) -> list[Link]:
    """Select the part of the list that was asked for.

    Args:
        only: numbers of the files (`0-9,42`: `sa_000042.tar` is 42), or patterns of whole names
            with commas between them (`sa_00000?.tar`); None means all.
        limit: at most so many, the first by name.

    Raises:
        UserError: `only` fits no file.
    """
    wanted = _wanted(only) if only else lambda _: True
    chosen = [link for link in links if wanted(link.file_name)]
    if not chosen:
        raise UserError(
            f"--only {only} fits none of the {len(links)} files, {links[0].file_name} to "
            f"{links[-1].file_name}; give numbers (0-9,42) or a pattern ('sa_00000?.tar')"
        )
    return chosen[:limit]


def _wanted(only: str) -> Callable[[str], bool]:
    if not _RANGES.fullmatch(only):
        patterns = only.split(",")
        return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)
    bounds = [[int(end) for end in part.split("-")] for part in only.split(",")]

    def fits(name: str) -> bool:
        digits = re.findall(r"\d+", name.split(".", maxsplit=1)[0])
        return bool(digits) and any(low[0] <= int(digits[-1]) <= low[-1] for low in bounds)

    return fits


def write_failed(folder: Path, failures: Iterable[Failure]) -> Path | None:
    """Write `failed.tsv`, a list to retry from; without failures an older one is removed."""
    path = folder / FAILED
    lines = [f"{f.link.file_name}\t{f.link.url}\t{f.reason}" for f in failures]
    if not lines:
        path.unlink(missing_ok=True)
        return None
    text = "\n".join([f"{NAME_COLUMN}\t{LINK_COLUMN}\treason", *lines]) + "\n"
    write_bytes(path, text.encode())
    return path
