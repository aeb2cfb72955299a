"""The disk's side of a download: unfinished files, the record of arrivals, the lock."""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from data_tools.download_http import Remote
from sam_train.errors import UserError
from sam_train.runtime.files import sync, write_bytes
from sam_train.runtime.jobs import append_line
from sam_train.runtime.lock import try_lock

RECORD = "downloaded.tsv"
LOCK = ".download.lock"


class LocalError(Exception):
    """This machine cannot write: no other file will fare better. `str()` is one line."""


@contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of writing into a LocalError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LocalError(f"the disk of {path.parent} is full ({error.strerror})") from error
        if error.errno == errno.EFBIG:
            raise LocalError(
                f"{path.parent} takes no file as large as {path.name} ({error.strerror})"
            ) from error
        raise LocalError(f"cannot write {path} ({error.strerror or error})") from error


class PartialFile:
    """A file on its way: `NAME.part`, and `NAME.part.json` that says what it is a part of.

    A part without a readable note belongs to nothing and counts as absent.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(final.name + ".part")
        self._note = final.with_name(final.name + ".part.json")

    def belongs_to(self) -> Remote | None:
        """Return the file that it is the beginning of."""
        try:
            note = json.loads(self._note.read_bytes())
            remote = Remote(**note)
        except (OSError, ValueError, TypeError):
            return None
        sane = isinstance(remote.size, int | None) and all(
            isinstance(text, str | None) for text in (remote.etag, remote.last_modified)
        )
        return remote if sane and self.path.is_file() else None

    def position(self) -> int:
        """Count the bytes that are there."""
        remote = self.belongs_to()
        if remote is None:
            return 0
        here = self.path.stat().st_size
        return here if remote.size is None or here <= remote.size else 0

    def start(self, remote: Remote) -> None:
        """Begin anew with the bytes of `remote`."""
        # In this order a kill at any point leaves no part under the note of another file.
        self.discard()
        with local_errors(self.path):
            text = json.dumps(asdict(remote)).encode()
            write_bytes(self._note, text)

    @contextmanager
    def appending(self) -> Iterator[_Writer]:
        """Open for the bytes that follow.

        Raises:
            LocalError: they cannot be written, for example because the disk is full.
        """
        with local_errors(self.path), self.path.open("ab", buffering=0) as file:
            yield _Writer(file.fileno(), self.path)

    def finish(self) -> None:
        """Give it its final name, safely on the disk."""
        with local_errors(self.path):
            sync(self.path)
            self.path.replace(self.final)
            self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what is there."""
        with local_errors(self.path):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)


class _Writer:
    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    def write(self, data: bytes) -> None:
        """Write all of it: a nearly full disk takes a part of a write without an error."""
        view = memoryview(data)
        with local_errors(self._path):
            while view:
                view = view[os.write(self._descriptor, view) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A line of the record."""

    file_name: str
    size: int
    """Bytes."""
    checksum: str = ""
    """The digest that it was compared with and had; empty if none was given."""
    note: str = ""
    """Finding of the tar check."""


class Record:
    """`downloaded.tsv`: what arrived whole, so that another run need not ask for it again."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD
        self._lock = threading.Lock()
        self._known: dict[str, Arrival] = {}
        lines = self._path.read_text("utf-8", "replace").split("\n") if self._path.is_file() else []
        for line in lines[1:-1]:  # what follows the last newline was cut by a kill
            cells = line.split("\t")
            with contextlib.suppress(ValueError, IndexError):
                self._known[cells[0]] = Arrival(
                    file_name=cells[0], size=int(cells[1]), checksum=cells[2], note=cells[3]
                )

    def get(self, file_name: str) -> Arrival | None:
        """Return what is known about a file that arrived."""
        return self._known.get(file_name)

    def add(self, arrival: Arrival) -> None:
        """Note a file that arrived; the newest line of a name counts."""
        cells = (arrival.file_name, str(arrival.size), arrival.checksum, arrival.note)
        with self._lock, local_errors(self._path):
            with self._path.open("a+b") as file:
                if not file.tell():
                    append_line(file, b"file_name\tsize\tchecksum\tnote")
                append_line(file, "\t".join(cells).encode())
            self._known[arrival.file_name] = arrival


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder against other downloads, also of other machines that mount it.

    Raises:
        UserError: another process holds it, named with its machine and since when.
    """
    path = folder / LOCK
    try:
        file = try_lock(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked ({error.strerror}): mount its file system with locks "
            "(Lustre: -o flock), or download to another folder"
        ) from error
    if file is None:
        holder = path.read_text("utf-8", "replace")[:200].strip() or "another process"
        raise UserError(
            f"{folder} is being downloaded to by {holder}: wait for it, or stop it first"
        )
    with file:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        line = f"process {os.getpid()} of {_user()} on {socket.gethostname()} since {now}\n"
        file.truncate(0)
        file.write(line.encode())
        file.flush()
        yield


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return str(os.getuid())
