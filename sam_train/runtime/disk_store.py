"""A folder of bytes by key that any number of processes fill and read, bounded in size.

It only ever saves work. An entry that is damaged, evicted or could not be written is one that the
caller makes again, so no error of the disk ends a run.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import math
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sam_train.runtime.files import atomic

log = logging.getLogger(__name__)

_MAGIC = b"SAMSTOR1"
_HEADER = struct.Struct("<8sQ16s")
"""Magic, length of the payload, checksum of the key and the payload."""
Buffer = bytes | bytearray | memoryview

_TOTAL = struct.Struct("<q")
_ENDING = ".part"
_OFF, _FULL = 0, 1
_BLOCK = 4096
_KEPT = 0.9
"""Eviction goes down to this part of the bound, so that it is needed once in many entries."""
_LOCK_SECONDS = 2.0
_FULL_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    used: float
    size: int
    path: str


class DiskStore:
    """Key -> payload in a folder.

    An entry is one file with a checksum over key and payload, written atomically. A file of the
    folder holds the sum of all sizes; its lock is held while a size is added to it and while
    entries are evicted. A writer first claims its size, so the folder never exceeds its bound,
    whoever is killed when.

    The entries least recently used go first. Those that were used since this store was opened stay:
    a training set larger than the bound would otherwise evict each entry just before its next use.
    What then finds no room is not stored.

    Args:
        folder: is made where it is absent.
        limit: bytes that all entries may take on the disk.
        setting: name of the setting that gave the folder, for messages.
    """

    def __init__(self, folder: Path, *, limit: int, setting: str) -> None:
        self.folder, self.limit, self.setting = folder, limit, setting
        self.hits = self.misses = self.damaged = 0
        """Reads of this process, and entries that it found damaged."""
        self._full_since: float | None = None
        # Shared with processes that are forked later: one of them says it, and all stop writing.
        self._said = mmap.mmap(-1, 2)
        # By the clock of the files' times.
        self._opened = time.time()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._total_locked() as total:
                if total is not None:
                    self._remove_leftovers()
        except OSError as error:
            self._turn_off(error)

    def __reduce__(self) -> tuple[Callable[[], DiskStore], tuple[()]]:
        """Return the constructor and its arguments; a spawned process opens the folder itself."""
        return partial(DiskStore, self.folder, limit=self.limit, setting=self.setting), ()

    @property
    def off(self) -> bool:
        """True after the disk refused something; nothing is written any more."""
        return self._said[_OFF] != 0

    def get(self, key: bytes) -> bytearray | None:
        """Return the payload of a key, or None where there is no intact one."""
        path = self._path(key)
        try:
            with path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                content = bytearray(status.st_size)
                if file.readinto(content) != len(content):
                    del content[:]
        except OSError:  # absent, or the disk cannot read it
            self.misses += 1
            return None
        payload = _checked(key, content)
        if payload is None:
            self.damaged += 1
            self.misses += 1
            log.debug("%s is damaged and will be made again", path)
            with suppress(OSError):
                path.unlink()
            return None
        self.hits += 1
        if status.st_mtime < self._opened:
            # Once in the life of this store: it counts as used since, and stays.
            with suppress(OSError):
                os.utime(path)
        return payload

    def put(self, key: bytes, *parts: Buffer) -> bool:
        """Store the joined parts as the payload of a key; return whether they are stored."""
        if self.off:
            return False
        path, size = self._path(key), _HEADER.size + sum(memoryview(p).nbytes for p in parts)
        # Another process was faster. `get` has removed it if it was damaged.
        if path.exists():
            return True
        handle: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not the process's number alone: another machine may have the same one.
            with atomic(path, ending=f".{os.urandom(6).hex()}{_ENDING}") as temporary:
                handle = self._claim(temporary, size=size)
                if handle is None:
                    raise _NoRoomError
                _write(handle, _HEADER.pack(_MAGIC, size - _HEADER.size, _checksum(key, *parts)))
                for part in parts:
                    _write(handle, part)
        except _NoRoomError:
            return False
        except OSError as error:
            self._turn_off(error)
            return False
        finally:
            # After the rename: the lock on it tells `_remove_leftovers` that somebody writes.
            if handle is not None:
                os.close(handle)
        return True

    def _path(self, key: bytes) -> Path:
        # In 256 folders: some file systems are slow with 100,000 names in one.
        name = hashlib.blake2b(key, digest_size=20).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _claim(self, temporary: Path, *, size: int) -> int | None:
        """Make a locked file of `size` for an entry and count it; return None without room."""
        if self._full_since is not None and time.monotonic() - self._full_since < _FULL_SECONDS:
            return None
        with self._total_locked() as total:
            if total is None:
                return None
            taken = _on_disk(size)
            before = _read_total(total)
            if before is None or before + taken > self.limit:
                before = self._evict(room=taken)
                os.ftruncate(total, _TOTAL.size)
            if before + taken > self.limit:
                self._say_full()
                return None
            os.pwrite(total, _TOTAL.pack(before + taken), 0)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # At its full size from the start, so that another's count of the folder has it.
                os.ftruncate(handle, size)
            except BaseException:
                os.close(handle)
                raise
            return handle

    @contextmanager
    def _total_locked(self) -> Iterator[int | None]:
        """Hold the lock of the sum of sizes; yield None where another process does not let go."""
        handle = os.open(self.folder / "total", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Bounded: a stopped process may hold the lock, and an entry is not worth the wait.
            until = time.monotonic() + _LOCK_SECONDS
            while not (locked := _try_lock(handle)) and time.monotonic() < until:
                time.sleep(0.002)
            yield handle if locked else None
        finally:
            os.close(handle)

    def _evict(self, *, room: int) -> int:
        """Remove old entries until `room` fits; return the bytes of those that are left."""
        self._remove_leftovers()
        entries = list(self._entries())
        total = sum(entry.size for entry in entries)
        if total + room <= self.limit:
            return total
        aim = min(_KEPT * self.limit, self.limit - room)
        for entry in sorted(entries, key=lambda entry: entry.used):
            if total <= aim or entry.used >= self._opened:
                break
            with suppress(FileNotFoundError):
                Path(entry.path).unlink()
            total -= entry.size
        return total

    def _entries(self) -> Iterator[_Entry]:
        """List entries, and the files of those that are being written as entries of now."""
        for folder in self._folders():
            for file in os.scandir(folder):
                with suppress(FileNotFoundError):
                    status = file.stat()
                    used = math.inf if file.name.endswith(_ENDING) else status.st_mtime
                    yield _Entry(used=used, size=_on_disk(status.st_size), path=file.path)

    def _remove_leftovers(self) -> None:
        """Remove what killed processes were writing: the kernel has freed their locks."""
        for folder in self._folders():
            for file in os.scandir(folder):
                if not file.name.endswith(_ENDING):
                    continue
                path = Path(file.path)
                with suppress(FileNotFoundError), path.open("rb") as left:
                    if _try_lock(left.fileno()):
                        path.unlink()

    def _folders(self) -> list[str]:
        return [entry.path for entry in os.scandir(self.folder) if len(entry.name) == 2]

    def _say_full(self) -> None:
        if not self._said[_FULL]:
            self._said[_FULL] = 1
            log.info(
                "%s=%s is full (%.1f GB, all of it in use): what is not in it is made each time",
                self.setting,
                self.folder,
                self.limit / 1e9,
            )
        self._full_since = time.monotonic()

    def _turn_off(self, error: OSError) -> None:
        if not self.off:
            self._said[_OFF] = 1
            log.warning(
                "%s=%s cannot be written (%s): the run goes on, and makes each time what is not "
                "in it. Make room there or give another folder",
                self.setting,
                self.folder,
                error.strerror or errno.errorcode.get(error.errno or 0, str(error)),
            )


class _NoRoomError(Exception):
    """No room for an entry; it ends an atomic write."""


def _checksum(key: bytes, *parts: Buffer) -> bytes:
    # With the key: an entry under another's name is no entry.
    digest = hashlib.blake2b(len(key).to_bytes(8, "little") + key, digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _checked(key: bytes, content: bytearray) -> bytearray | None:
    """Cut the payload out of a file's content; return None if anything disagrees."""
    if len(content) < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(content)
    if magic != _MAGIC or length != len(content) - _HEADER.size:
        return None
    with memoryview(content) as whole, whole[_HEADER.size :] as payload:
        if _checksum(key, payload) != checksum:
            return None
    # The header goes in place; the bytes are not copied a second time.
    del content[: _HEADER.size]
    return content


def _write(handle: int, part: Buffer) -> None:
    """Write all bytes: one call may write less, on a disk that is about to be full."""
    rest = memoryview(part).cast("B")
    while rest:
        rest = rest[os.write(handle, rest) :]


def _read_total(handle: int) -> int | None:
    stored = os.pread(handle, _TOTAL.size + 1, 0)
    return _TOTAL.unpack(stored)[0] if len(stored) == _TOTAL.size else None


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _on_disk(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
