"""Checks of the bytes on the disk: published checksums, and a walk over a tar."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_tools.download_http import CHUNK
from sam_train.data.storage.tar import list_members
from sam_train.errors import UserError

_KINDS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
_LINES = (
    re.compile(r"(?P<digest>[0-9a-fA-F]+)\s+\*?(?P<name>\S.*)"),
    re.compile(r"\w+ ?\((?P<name>.+)\) ?= ?(?P<digest>[0-9a-fA-F]+)"),
)


class Halted(Exception):  # noqa: N818 - no error: it was asked for
    """The run is being stopped."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A published digest."""

    kind: str
    """Name in hashlib."""
    digest: str
    """Lower-case hex."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest}"

    def of(self, path: Path, *, halted: Callable[[], bool] = lambda: False) -> str:
        """Compute the same kind of digest of a file.

        Raises:
            Halted: `halted()` became true; asked for every few megabytes.
        """
        found = hashlib.new(self.kind, usedforsecurity=False)
        with path.open("rb", buffering=0) as file:
            while data := file.read(8 * CHUNK):
                if halted():
                    raise Halted
                found.update(data)
        return found.hexdigest()


def read_checksums(path: Path) -> dict[str, Checksum]:
    """Read digests by file name from lines of md5sum, sha1sum, sha256sum, sha512sum or BSD's form.

    Raises:
        UserError: it cannot be read, or holds a line of another form.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the checksums {path}: {error}") from None
    found: dict[str, Checksum] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        match = next(filter(None, (form.fullmatch(line) for form in _LINES)), None)
        if match is None or len(match["digest"]) not in _KINDS:
            raise UserError(
                f"{path}, line {number}: expected a digest (md5, sha1, sha256 or sha512) and a "
                "file name, as md5sum writes them"
            )
        digest = match["digest"].lower()
        found[Path(match["name"]).name] = Checksum(_KINDS[len(digest)], digest)
    return found


def tar_damage(path: Path) -> str | None:
    """Return why a tar cannot be walked to its end, or None. Read the headers only."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list_members(
            lambda offset, length: os.pread(descriptor, length, offset),
            size=os.fstat(descriptor).st_size,
        ).damage
    finally:
        os.close(descriptor)
