"""The plan of a download, file by file, which --dry-run prints."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from rich.filesize import decimal

from data_tools.download_checks import Checksum
from data_tools.download_http import Remote, TransferError
from data_tools.download_links import Link
from data_tools.download_part import PartialFile, Record
from sam_train.errors import UserError

SPEEDS = {"100 MB/s": 1e8, "1 GB/s": 1e9}


class State(Enum):
    """The work that a file needs."""

    COMPLETE = "complete"
    CHECK = "to be compared with its checksum"
    CONTINUE = "to continue"
    FETCH = "to fetch"
    REPLACE = "of another length than the server's, to fetch again"
    MISSING = "not to be had"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A file of the plan."""

    link: Link
    state: State
    remote: Remote | None = None
    """None where nobody was asked or nobody answered."""
    have: int = 0
    """Bytes that are there."""
    fault: TransferError | None = None
    """The reason why it is not to be had."""

    @property
    def lacking(self) -> int:
        """Bytes still to come; 0 where that is unknown."""
        if self.state in (State.COMPLETE, State.CHECK, State.MISSING) or self.remote is None:
            return 0
        have = self.have if self.state is State.CONTINUE else 0
        return max(0, (self.remote.size or 0) - have)


def settled(link: Link, *, folder: Path, record: Record, checksum: Checksum | None) -> Item | None:
    """Decide by the disk alone: a file that the record knows needs no question."""
    path = folder / link.file_name
    arrival = record.get(link.file_name)
    if arrival is None or not path.is_file() or path.stat().st_size != arrival.size:
        return None
    checked = checksum is None or arrival.checksum == str(checksum)
    state = State.COMPLETE if checked else State.CHECK
    return Item(link=link, state=state, have=arrival.size, remote=Remote(size=arrival.size))


def compared(link: Link, remote: Remote, *, folder: Path, checksum: Checksum | None) -> Item:
    """Decide what is to be done about a file that the server describes as `remote`."""
    path = folder / link.file_name
    if path.is_file():
        here = path.stat().st_size
        same = remote.size is None or remote.size == here
        if same and checksum is not None:
            state = State.CHECK
        elif same and remote.size is not None:
            state = State.COMPLETE
        else:
            state = State.REPLACE
        return Item(link=link, state=state, remote=remote, have=here)
    part = PartialFile(path)
    begun = part.belongs_to()
    have = part.position() if begun is not None and begun.is_same(remote) else 0
    state = State.CONTINUE if have else State.FETCH
    return Item(link=link, state=state, remote=remote, have=have)


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """The files of a run."""

    items: Sequence[Item]

    @property
    def lacking(self) -> int:
        """Bytes still to come, as far as lengths are known."""
        return sum(item.lacking for item in self.items)

    def of(self, *states: State) -> list[Item]:
        """Select the files in these states."""
        return [item for item in self.items if item.state in states]

    def summary(self, folder: Path) -> str:
        """Write two lines: how many files in which state, and what they need."""
        counts = Counter(item.state for item in self.items)
        files = "; ".join(f"{counts[state]:,} {state.value}" for state in State if counts[state])
        times = ", ".join(f"{_time(self.lacking / s)} at {name}" for name, s in SPEEDS.items())
        unknown = sum(1 for item in self._coming() if item.remote is None or not item.remote.size)
        more = f" and {unknown} files of unknown length" if unknown else ""
        return (
            f"{len(self.items):,} files: {files}\n"
            f"{decimal(self.lacking)}{more} to come ({times}); "
            f"{decimal(free_bytes(folder))} free in {folder}"
        )

    def table(self) -> str:
        """Write a line a file."""
        rows: list[tuple[str, str, str]] = []
        for item in self.items:
            size = item.remote.size if item.remote else None
            note = str(item.fault) if item.fault else item.state.value
            if item.state is State.CONTINUE:
                note += f", {decimal(item.have)} are there"
            rows.append((item.link.file_name, "?" if size is None else decimal(size), note))
        wide = max(len(name) for name, _, _ in rows)
        return "\n".join(f"{name:<{wide}}  {size:>9}  {note}" for name, size, note in rows)

    def require_space(self, folder: Path) -> None:
        """Refuse to begin what cannot end.

        Raises:
            UserError: the folder's disk has less space than is needed.
        """
        free = free_bytes(folder)
        if self.lacking <= free:
            return
        fit, total = 0, 0
        for item in self._coming():
            total += item.lacking
            fit += total <= free
        raise UserError(
            f"{decimal(self.lacking)} are to come, but {folder} has {decimal(free)} free: free "
            f"some, choose another --out, or take fewer files with --only or --limit ({fit} fit)"
        )

    def _coming(self) -> list[Item]:
        return self.of(State.CONTINUE, State.FETCH, State.REPLACE)


def free_bytes(folder: Path) -> int:
    """Return the free bytes of a folder's disk; also for a folder that is still to be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def checksums_fit(links: Sequence[Link], checksums: Mapping[str, Checksum], source: Path) -> None:
    """Refuse checksums of quite other files.

    Raises:
        UserError: `checksums` names none of `links`.
    """
    if not any(link.file_name in checksums for link in links):
        raise UserError(f"{source} has the checksum of none of the files: is it another list's?")


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
