"""What was found on the photos of one unit so far: a JSON line for each photo.

A unit is the photos of one output shard. Its journal is locked while a process works on it, grows
by a line when a photo is done, and goes when the unit's files are complete: a process that was
killed goes on after its last photo, and two never do the same one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import msgspec

from sam_train.data.shards.writer import Annotation


class PhotoRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One photo that is done."""

    image_id: int
    source: str
    """Where it came from."""
    width: int = 0
    height: int = 0
    annotations: list[Annotation] = []
    skipped: str = ""
    """Why it could not be used, in two words; empty if it was."""


_decoder = msgspec.json.Decoder(PhotoRecord)


class Journal:
    """The open, locked journal of a unit."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.records: dict[int, PhotoRecord] = {}
        """By image_id."""
        whole = 0
        for line in file:
            try:
                record = _decoder.decode(line)
            except msgspec.MsgspecError:
                break
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            self.records[record.image_id] = record
        # What a killed process left of its last line.
        file.truncate(whole)
        file.seek(whole)

    def append(self, record: PhotoRecord) -> None:
        """Keep the record of a photo; in the file when this returns."""
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()
        self.records[record.image_id] = record

    def remove(self) -> None:
        """The unit is complete."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def open_journal(path: Path) -> Journal | None:
    """The journal at `path`, made if absent; None while another process works on its unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.seek(0)
    return Journal(file, path)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Whoever comes second waits; the lock of a process that dies is freed."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
