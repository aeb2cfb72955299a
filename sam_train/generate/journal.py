"""The journal of a unit, with a JSON line for each finished photo.

A unit is the photos of one output shard. Its journal is locked while a process works on it. It
grows by a line with each photo, and is removed when the unit's files are complete. A process that
was killed therefore resumes after its last photo, and no two do the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from sam_train.data.shards.writer import Annotation
from sam_train.runtime.jobs import append_line, read_journal
from sam_train.runtime.lock import try_lock


class PhotoRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A photo that is done."""

    image_id: int
    source: str
    """Path of the photo, or of its shard and its name there."""
    width: int = 0
    height: int = 0
    annotations: list[Annotation] = []
    skipped: str = ""
    """Reason why the photo could not be used, in two words; empty if it was."""


_decoder = msgspec.json.Decoder(PhotoRecord)


class Journal:
    """The open, locked journal of a unit."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self.records = {r.image_id: r for r in read_journal(path, _decoder.decode)}
        """Finished photos by image_id."""

    def append(self, record: PhotoRecord) -> None:
        """Append the record of a photo; it is in the file when this returns."""
        append_line(self._file, msgspec.json.encode(record))
        self.records[record.image_id] = record

    def remove(self) -> None:
        """Remove the file of a unit that is complete."""
        self._path.unlink(missing_ok=True)


@contextmanager
def open_journal(path: Path) -> Iterator[Journal | None]:
    """Open the journal at `path`, made if absent; give None while another process works on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A lock of the open file ends with its process, also with one that is killed.
    file = try_lock(path)
    if file is None:
        yield None
        return
    with file:
        yield Journal(file, path)
