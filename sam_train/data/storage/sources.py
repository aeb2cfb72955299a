"""Sources of bytes: one interface over disks, web servers and object stores.

A `Source` is one file that is read in parts. Nothing stays open between reads but the connections
that a process keeps alive, so sources work in threads, after fork and after spawn.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec

from sam_train.errors import UserError
from sam_train.runtime.text import one_line

MERGE_GAP = 1 << 16
"""Parts closer than this are read as one: a request costs more than 64 KiB."""
READ_AHEAD = 1 << 17
"""Bytes that a remote walk over headers takes at a time: a JSON of SA-1B and the next header."""
PIPE = "pipe:"
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [offset, offset + size) of a file."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Facts:
    """A file's size and version, known without reading it."""

    size: int
    """Bytes."""
    stamp: str
    """Changes when the file does: modification time, or the server's ETag."""


class Source(ABC):
    """A file that is read in parts. Its errors are OSErrors of one line."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = short_name(path)

    @abstractmethod
    def facts(self) -> Facts:
        """Ask for size and version, anew each time.

        Raises:
            OSError: it does not exist, is not ours to read, or does not answer.
        """

    def size(self) -> int:
        """Return the bytes of the file; raises as `facts`."""
        return self.facts().size

    @abstractmethod
    def read_many(self, spans: Sequence[Span], *, size: int | None = None) -> list[bytes]:
        """Read exactly the bytes of each span; spans that lie close together are one request.

        Args:
            size: what the file is known to measure; another size is an error where the read
                itself shows it (files and web servers, not object stores).

        Raises:
            OSError: as `facts`; the file ends before a span does; it has another size.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes; raises as `read_many`."""
        return self.read_many([Span(offset, length)])[0]

    @contextmanager
    def opened(self, size: int) -> Iterator[Callable[[int, int], bytes]]:
        """Open a reader for many small parts in rising order: (offset, length) -> bytes, shorter
        only at the end of the file."""
        ahead = _ReadAhead(self, size)
        yield ahead.read_at

    def _changed(self) -> OSError:
        return OSError(f"{self.name} changed since it was indexed")

    def _ends_early(self) -> OSError:
        return OSError(f"{self.name} is shorter than it was")


class _ReadAhead:
    """Reads more than it is asked for, because the next question is near."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        self._begin = 0
        self._data = b""

    def read_at(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._size)
        if offset >= end:
            return b""
        # A read that lies in the block costs nothing: headers are 512 bytes, JSONs follow at once.
        if not self._begin <= offset <= end <= self._begin + len(self._data):
            # The last bytes of a file are fewer; nothing is read behind its end.
            ahead = min(max(length, READ_AHEAD), self._size - offset)
            self._data = self._source.read(offset, ahead)
            self._begin = offset
        return self._data[offset - self._begin : end - self._begin]


class LocalSource(Source):
    """A file on a disk or a mounted network file system."""

    def facts(self) -> Facts:
        """Ask the file system."""
        status = Path(self.path).stat()
        return Facts(status.st_size, str(status.st_mtime_ns))

    def read_many(self, spans: Sequence[Span], *, size: int | None = None) -> list[bytes]:
        """Open the file anew for each call, so that a replaced or vanished file is noticed."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if size is not None and os.fstat(descriptor).st_size != size:
                raise self._changed()
            # `pread` has no shared position, so threads do not disturb each other.
            parts = [os.pread(descriptor, span.size, span.offset) for span in spans]
        finally:
            os.close(descriptor)
        if [len(part) for part in parts] != [span.size for span in spans]:
            raise self._ends_early()
        return parts

    @contextmanager
    def opened(self, size: int) -> Iterator[Callable[[int, int], bytes]]:
        """Keep the file open inside the block only."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            yield lambda offset, length: os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)


class ObjectSource(Source):
    """Anything fsspec reads: s3 through s3fs, gs through gcsfs.

    fsspec rather than obstore: obstore's runtime does not survive a fork, which is how a
    DataLoader starts its workers on Linux, while fsspec starts anew in the child.
    """

    def facts(self) -> Facts:
        """Ask fsspec's filesystem, whose errors are of many types."""
        with self._errors():
            filesystem, name = filesystem_of(self.path)
            info = filesystem.info(name, **_refresh(filesystem))
            # Stores name it differently; without one a change of equal size stays unnoticed.
            version = info.get("ETag") or info.get("etag") or info.get("mtime") or ""
            return Facts(int(info["size"]), str(version))

    def read_many(self, spans: Sequence[Span], *, size: int | None = None) -> list[bytes]:
        """Read the merged spans in parallel, as fsspec does."""
        groups = merged(spans)
        with self._errors():
            filesystem, name = filesystem_of(self.path)
            starts, ends = [g.offset for g in groups], [g.end for g in groups]
            blocks = filesystem.cat_ranges([name] * len(groups), starts, ends, on_error="raise")
        if [len(block) for block in blocks] != [group.size for group in groups]:
            raise self._ends_early()
        return cut(spans, groups, blocks)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} does not exist") from None
        except PermissionError as error:
            raise PermissionError(f"{self.path}: not allowed ({one_line(error)})") from None
        except Exception as error:  # fsspec's backends raise what they like
            raise OSError(f"{self.path}: {one_line(error)}") from None


def _refresh(filesystem: Any) -> dict[str, bool]:
    # s3fs would answer from its listing of the folder, which may be old.
    return {"refresh": True} if "s3" in filesystem.protocol else {}


def merged(spans: Sequence[Span]) -> list[Span]:
    """Merge spans to the fewest that cover them, in rising order, over gaps of at most
    MERGE_GAP."""
    groups: list[Span] = []
    for span in sorted(spans, key=lambda s: s.offset):
        if groups and span.offset - groups[-1].end <= MERGE_GAP:
            last = groups[-1]
            groups[-1] = Span(last.offset, max(last.end, span.end) - last.offset)
        else:
            groups.append(span)
    return groups


def cut(spans: Sequence[Span], groups: Sequence[Span], blocks: Sequence[bytes]) -> list[bytes]:
    """Cut the bytes of each span out of the blocks that were read for `merged(spans)`."""
    parts = []
    for span in spans:
        # A span lies in one group as a whole, as `merged` never splits one.
        home = next(k for k, g in enumerate(groups) if g.offset <= span.offset <= span.end <= g.end)
        at = span.offset - groups[home].offset
        parts.append(bytes(blocks[home][at : at + span.size]))
    return parts


def is_remote(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path and not path.startswith(PIPE)


def is_http(path: str) -> bool:
    """Return whether a path is the URL of a web server."""
    return path.startswith(("http://", "https://"))


def short_name(path: str) -> str:
    """Return the file's own name for messages: a link's query may hold a password."""
    # A query or a password in a URL must not reach logs.
    name = (urlsplit(path).path if is_remote(path) else path).rstrip("/")
    folder, _, last = name.rpartition("/")
    # Of samples in a folder, whose path ends with a pattern of their names: the folder's.
    return folder.rpartition("/")[2] if folder and is_sample_file(path) else last


def is_sample_file(path: str) -> bool:
    """Return whether a local path ends like the photos and JSONs of a folder."""
    local = not is_remote(path) and not path.startswith(PIPE)
    return local and path.lower().endswith((".json", ".jpg", ".jpeg"))


def filesystem_of(path: str) -> tuple[Any, str]:
    """Return fsspec's filesystem for a URL, and the name in it.

    Raises:
        UserError: a package is missing, or nothing knows such URLs.
    """
    scheme = path.split("://", 1)[0]
    try:
        filesystem, name = fsspec.core.url_to_fs(path)
    except ImportError:
        package = _PACKAGES.get(scheme, f"fsspec's package for {scheme}")
        raise UserError(
            f"{path}: reading {scheme}:// needs {package}, which is not installed: "
            f"pip install {package if scheme in _PACKAGES else 'it'}."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); check the URL.") from None
    return filesystem, str(name)
