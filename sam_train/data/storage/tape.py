"""A shard read front to back: the only way for a `pipe:` command, and possible for all others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from webdataset.gopen import gopen

from sam_train.data.shards.part import MAX_MEMBER, Entry
from sam_train.data.shards.unpacked import is_unpacked, list_folder, read_pair, split
from sam_train.data.storage.compressed import MAGIC, compressed
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import PIPE
from sam_train.data.storage.tar import Listing, walk_members

_CHUNK = 1 << 20
_MAX_HALVES = 16
"""Photos and JSONs that wait for the other file of their name; SA-1B has them side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two files of one sample, in memory."""

    key: str
    """Names of the files without extension."""
    entry: Entry


def read_pairs(path: str, *, left_out: Callable[[str], None]) -> Iterator[Pair]:
    """Yield the samples of one shard in the order in which they are complete.

    Args:
        path: of the shard, a URL, or a `pipe:` command.
        left_out: is told of each file that makes no sample, and why.

    Raises:
        OSError: the shard cannot be read, or not to its end; a command's exit status is not 0.
    """
    if is_unpacked(path):
        yield from _read_folder(path, left_out=left_out)
        return
    halves: dict[str, dict[str, bytes]] = defaultdict(dict)
    listing = Listing()
    begin = b""
    with _open(path) as tape:

        def read_at(offset: int, length: int) -> bytes:
            nonlocal begin
            data = tape.read_at(offset, length)
            # The first bytes name a compressed archive, whose headers look damaged.
            begin = begin or data[:MAGIC]
            return data

        for member in walk_members(read_at, listing, size=tape.size):
            key, suffix = split(member.name)
            if suffix is None:
                continue
            if member.size > MAX_MEMBER:
                left_out(f"{member.name}: a file of more than {MAX_MEMBER >> 20} MiB")
                continue
            data = tape.read_at(member.offset, member.size)
            # Only here: the length of a command's output is unknown before its end.
            if len(data) < member.size:
                raise OSError(f"cut inside {member.name}")
            # A second file of the same kind takes the place of the first, as when a tar is
            # unpacked.
            files = halves[key]
            files[suffix] = data
            if len(files) == 2:
                del halves[key]
                yield Pair(key=key, entry=Entry(jpeg=files["jpg"], json=files["json"]))
            # Bounded memory: a stream cannot go back for the other half.
            elif len(halves) > _MAX_HALVES:
                left_out(_alone(halves, next(iter(halves))))
        if listing.damage:
            raise OSError(compressed(path, begin) or listing.damage)
        tape.finish()
    for key in list(halves):
        left_out(_alone(halves, key))


def _read_folder(path: str, *, left_out: Callable[[str], None]) -> Iterator[Pair]:
    pairs, sizes, refused = list_folder(path)
    for name in (*pairs.without_json, *pairs.without_jpeg, *refused):
        left_out(f"{name}: no sample")
    for key in pairs.keys:
        own = sizes[pairs.jpegs[key]], sizes[pairs.jsons[key]]
        if max(own) > MAX_MEMBER:
            left_out(f"{key}: a file of more than {MAX_MEMBER >> 20} MiB")
            continue
        jpeg, json = read_pair(path, key, sizes=own)
        yield Pair(key=key, entry=Entry(jpeg=jpeg, json=json))


def _alone(halves: dict[str, dict[str, bytes]], key: str) -> str:
    (suffix,) = halves.pop(key)
    other = ".json" if suffix == "jpg" else ".jpg"
    return (
        f"{key}.{suffix} without its {other} near by (data.mode=indexed finds it anywhere in the "
        "shard, and `python -m data_tools.reshard` puts the two side by side)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tape:
    read_at: Callable[[int, int], bytes]
    """(offset, length) -> bytes, shorter only at the end; offsets only rise."""
    size: int | None
    """Bytes, where that is known beforehand."""
    finish: Callable[[], None]
    """Reads what lies behind the archive's end; raises OSError as a read does."""


@contextmanager
def _open(path: str) -> Iterator[_Tape]:
    if not path.startswith(PIPE):
        source = open_source(path)
        size = source.size()
        with source.opened(size) as read_at:
            yield _Tape(read_at=read_at, size=size, finish=lambda: None)
        return
    pipe = gopen(path)
    try:
        command = _Command(pipe)
        yield _Tape(read_at=command.read_at, size=None, finish=command.finish)
    finally:
        # What is still running writes for nobody, and closing would wait for it for two hours.
        pipe.proc.kill()
        pipe.stream.close()
        pipe.proc.wait()


class _Command:
    """The output of a shell command."""

    def __init__(self, pipe: Any) -> None:
        # Not webdataset's own read: once the command has failed, it drops what was still printed.
        self._pipe = pipe
        self._begin = 0
        self._data = b""

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly these bytes, fewer only at the end; earlier bytes are gone.

        Raises:
            OSError: the output ended and the command's exit status is not 0.
        """
        # Bytes of the output that nobody asked for, to be dropped as they come.
        skip = offset - self._begin - len(self._data)
        parts = [self._data[offset - self._begin :]]
        have = len(parts[0])
        while have < length and (chunk := self._read()):
            parts.append(chunk[max(skip, 0) :])
            have += len(parts[-1])
            skip -= len(chunk)
        data = b"".join(parts)
        # What was read beyond the request waits for the next one.
        self._begin, self._data = offset + min(length, len(data)), data[length:]
        return data[:length]

    def finish(self) -> None:
        """Read to the end, so that the command is not stopped by a closed pipe."""
        while self._read():
            pass

    def _read(self) -> bytes:
        data: bytes = self._pipe.stream.read(_CHUNK)
        # An empty read alone may be a command that failed half-way.
        if not data and (status := self._pipe.proc.wait()):
            raise OSError(f"the command ended with exit status {status}")
        return data
