"""What was measured so far, one JSON line per item: an evaluation goes on where it stopped."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from sam_train.runtime.parts import Part

log = logging.getLogger("sam_train")

Record = dict[str, Any]
SKIPPED = "skipped"
"""The field of a record that says why its item was left out."""


class Records:
    """A folder of `part_I_of_N.jsonl`; each process appends to its own and reads all.

    The folder belongs to one checkpoint under one set of settings: give another one another folder.
    """

    def __init__(self, folder: Path, *, part: Part) -> None:
        """Make `folder` if need be."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"part_{part.index}_of_{part.count}.jsonl"
        self._begun = False

    def load(self) -> dict[str, Record]:
        """All processes' records by `key`. An item measured counts before the same one skipped.

        A line that a killed process left unfinished is passed over: its item is measured again.
        """
        found: dict[str, Record] = {}
        for path in sorted(self.folder.glob("part_*.jsonl")):
            for number, line in enumerate(path.read_bytes().splitlines(), start=1):
                try:
                    record = json.loads(line)
                    key = record["key"]
                except (ValueError, TypeError, KeyError):
                    log.debug("%s: line %d is unfinished", path, number)
                    continue
                if key not in found or SKIPPED in found[key]:
                    found[key] = record
        return found

    def append(self, key: str, values: Record) -> None:
        """Keep the record of an item; in the file when this returns.

        Raises:
            ValueError: a value is not a finite number, text, list or dict of these.
        """
        line = json.dumps({"key": key, **values}, allow_nan=False).encode()
        with self._path.open("a+b") as file:
            if not self._begun:
                file.seek(0, 2)
                if file.tell() and _last_byte(self._path) != b"\n":
                    line = b"\n" + line
                self._begun = True
            file.write(line + b"\n")


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1)
