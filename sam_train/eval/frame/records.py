"""The journal of a task: one JSON line per item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sam_train.runtime.jobs import append_line, read_journal
from sam_train.runtime.parts import Share

Record = dict[str, Any]
SKIPPED = "skipped"
"""The field of a record with the reason why its item was left out."""


class Records:
    """A folder of `part_I_of_N.jsonl`; each process appends to its own and reads all.

    The folder belongs to one checkpoint under one set of settings; others have other folders.
    """

    def __init__(self, folder: Path, *, part: Share) -> None:
        """Make `folder` if it is absent."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"part_{part.index}_of_{part.count}.jsonl"

    def load(self) -> dict[str, Record]:
        """Return the records of all processes by `key`; an item's measurement replaces a skip."""
        found: dict[str, Record] = {}
        for path in sorted(self.folder.glob("part_*.jsonl")):
            for record in read_journal(path, _decode):
                key = record["key"]
                if key not in found or SKIPPED in found[key]:
                    found[key] = record
        return found

    def append(self, record: Record) -> None:
        """Append the record of an item, with its `key`; it is in the file when this returns.

        Raises:
            ValueError: a value is not a finite number, text, list or dict of these.
        """
        line = json.dumps(record, allow_nan=False).encode()
        with self._path.open("a+b") as file:
            append_line(file, line)


def _decode(line: bytes) -> Record:
    record = json.loads(line)
    if not isinstance(record, dict) or "key" not in record:
        raise ValueError("not the record of an item")
    return record
