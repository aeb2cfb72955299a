"""Atomic writes: a reader, or a later run, sees the file before or the file after, never half."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Result = TypeVar("Result")


@contextmanager
def atomic(path: Path, *, ending: str = ".part", durable: bool = False) -> Iterator[Path]:
    """Yield a hidden name beside `path` to write under; rename it to `path` at the end.

    After an exception `path` is as it was and the hidden file is gone.

    Args:
        path: in a folder that exists.
        ending: of the hidden name. A glob for shards must not match it, so it is not `path`'s own.
        durable: flush bytes and name to the disk, so that a power cut cannot undo the rename.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{ending}")
    try:
        yield temporary
        if durable:
            # The name must not reach the disk before the bytes.
            sync(temporary)
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    finally:
        # Where the folder is missing or broken, there is nothing to take away either.
        with suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, fill: Callable[[BinaryIO], Result]) -> Result:
    """Let `fill` write the content of `path`, atomically, and return its result."""
    with atomic(path) as temporary, temporary.open("wb") as stream:
        return fill(stream)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically, line breaks as they are."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, indent: int = 1) -> None:
    """Write `value` as indented JSON, atomically; make the folder if it is absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=indent) + "\n")


def link(existing: Path, name: Path, *, ending: str = ".part") -> None:
    """Give a file a second name in the same folder, atomically; copy it where links are unknown."""
    with atomic(name, ending=ending) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(existing, temporary)
        except OSError:
            _copy(existing, temporary)


def create(path: Path, content: bytes) -> bool:
    """Make a file complete from its first moment; return False if the name is taken.

    A rename would replace what another process wrote meanwhile; a link fails.
    """
    # Two containers of one machine may write the same name under the same process number.
    complete = path.with_name(f".{os.urandom(16).hex()}")
    try:
        complete.write_bytes(content)
        try:
            os.link(complete, path)
        except FileExistsError:
            # A network file system may have done it, lost the answer, and tried once more.
            return complete.stat().st_nlink > 1
        except OSError:
            return _create_in_place(path, content)
        return True
    finally:
        complete.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring the bytes of a file to the disk; a full network disk may say so only here."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Some network file systems have no such thing, and do without.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        while block := read.read(1 << 24):
            write.write(block)
    sync(target)


def _create_in_place(path: Path, content: bytes) -> bool:
    """Create a file where a file cannot have two names: readers may see a part of it."""
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True
