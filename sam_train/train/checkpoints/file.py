"""Checkpoint files that are written atomically, and that show it when a bit of them is lost.

The format is torch's own, a zip file with a CRC32 of every record. torch writes these checksums and
never looks at them again. `check_checksums` does, for files of other programs as well as ours.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from sam_train.runtime.files import atomic, link, sync

_FORBIDDEN = re.compile(r"GLOBAL\s+([\w.]+)")
PARTIAL = ".partial"
"""The ending of an unfinished file's name."""


class DamagedFileError(Exception):
    """A file that is not what was once written; the message says what is wrong, not where."""


class _Remembering:
    """A file for torch.save, whose C++ writer turns an error of the disk into one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write, or pretend to after the first error, which is raised when torch is done."""
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                # Raised in here it would come out of torch's C++ writer without its cause.
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Leave it to `write_checkpoint`; torch calls this at the end."""


def write_checkpoint(content: dict[str, Any], path: Path, *, also: Path | None = None) -> None:
    """Save `content` under `path`, and under `also` without a second copy on the disk.

    Killed at any moment, it leaves under each name what was there or the whole new file, and
    `also` is never older than `path`.

    Raises:
        OSError: the disk is full or failing; what was under the names is untouched.
        DamagedFileError: `content` holds more than tensors and plain types.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path, ending=PARTIAL, durable=True) as partial:
        with partial.open("wb") as file:
            # A full disk must read as ENOSPC, by which `fit` words its advice.
            remembering = _Remembering(file)
            torch.save(content, cast(Any, remembering))
            if remembering.error is not None:
                raise remembering.error
        if also is not None:
            # Before the second name: it must not be a file that a power cut can shorten.
            sync(partial)
        # Something in it that only running code could bring back would be noticed months later.
        read_outline(partial)
        if also is not None:
            # `also` first: killed in between, the run resumes from the newer of the two.
            link(partial, also, ending=PARTIAL)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of killed processes."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def check_checksums(path: Path) -> None:
    """Read every byte and compare it with the checksum that was written with it.

    Raises:
        DamagedFileError: something is missing or changed.
        OSError: the file cannot be opened.
    """
    # For an OSError of its own: below, every error counts as damage.
    path.open("rb").close()
    try:
        with zipfile.ZipFile(path) as archive:
            # Decompresses and checks all records, in the order of the file: one sequential read.
            bad = archive.testzip()
            # torch would read a record that claims to be a folder as one without content.
            folders = [info.filename for info in archive.infolist() if info.external_attr & 0x10]
    except Exception as error:  # zipfile raises whatever the bytes lead it to
        raise DamagedFileError(_first_line(error)) from error
    bad = bad or next(iter(folders), None)
    if bad is not None:
        raise DamagedFileError(f"{bad.partition('/')[2] or bad} fails its checksum")


def read_outline(path: Path) -> Any:
    """Read the content without the tensors' values (on the meta device). Never run code from it.

    Raises:
        DamagedFileError: torch cannot read it, or it wants to run code.
        OSError: the file cannot be opened.
    """
    path.open("rb").close()
    try:
        # mmap: the outline of a checkpoint of 8 GB takes no more memory than its names.
        return torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise DamagedFileError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    if forbidden := _FORBIDDEN.search(str(error)):
        return f"it would run code: {forbidden[1]}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:100]
