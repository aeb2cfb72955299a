"""Go through every sample of many shards: in parallel, in order, and without doing a shard twice.

A shard is listed, cut into chunks, the chunks are examined by processes, and what they found is
merged in order, so that the result does not depend on their number. A finished shard's `ScanPart`
can be kept in a folder: the next run takes it from there unless the shard or the settings changed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from data_tools import command
from sam_train.data.shards.part import MAX_MEMBER
from sam_train.data.shards.unpacked import Pairs, is_unpacked, list_folder, pair_up, read_pair
from sam_train.data.storage.compressed import MAGIC, compressed
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import Facts, Span
from sam_train.data.storage.tar import list_members
from sam_train.errors import UserError
from sam_train.runtime.files import write_bytes
from sam_train.runtime.text import one_line

CHUNK = 64
"""Samples that a process examines at a time: enough to make sending them cheap."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Places of a photo and its JSON in their shard."""

    key: str
    """Member name without extension and without a leading `./`."""
    jpeg: Span
    json: Span


@dataclass(slots=True, kw_only=True)
class ShardListing:
    """Everything that the headers of a shard say."""

    path: str
    size: int = 0
    """Bytes."""
    pairs: list[Pair] = field(default_factory=list)
    without_json: list[str] = field(default_factory=list)
    without_jpeg: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    """Names that occur more than once; the last member counts, as in training."""
    refused: list[str] = field(default_factory=list)
    """Links, devices and names that point out of the archive."""
    others: list[str] = field(default_factory=list)
    """Files that are neither a photo nor a JSON."""
    damage: str | None = None
    """The reason why the walk ended early, if it did; earlier pairs are listed."""
    error: str | None = None
    """The reason why nothing at all could be read."""


def list_shard(path: str) -> ShardListing:
    """Walk the headers of one tar, or the names of a folder; never raises for what is wrong."""
    listing = ShardListing(path=path)
    try:
        source = open_source(path)
        listing.size = source.size()
        if is_unpacked(path):
            pairs, sizes, listing.refused = list_folder(path)
            spans = {name: Span(0, size) for name, size in sizes.items()}
            _sort(pairs, spans, listing)
            return listing
        with source.opened(listing.size) as read_at:
            if problem := compressed(path, read_at(0, MAGIC)):
                listing.error = problem
                return listing
            walk = list_members(read_at, size=listing.size)
    except (OSError, UserError) as error:
        listing.error = _reason(error)
        return listing
    listing.damage, listing.refused = walk.damage, walk.refused
    names = [member.name.removeprefix("./") for member in walk.members]
    spans = {n: Span(m.offset, m.size) for n, m in zip(names, walk.members, strict=True)}
    if len(spans) < len(names):
        listing.repeated = [name for name, times in Counter(names).items() if times > 1]
    _sort(pair_up(list(spans)), spans, listing)
    return listing


def _sort(pairs: Pairs, spans: Mapping[str, Span], listing: ShardListing) -> None:
    listing.pairs = [Pair(k, spans[pairs.jpegs[k]], spans[pairs.jsons[k]]) for k in pairs.keys]
    listing.without_json, listing.without_jpeg = pairs.without_json, pairs.without_jpeg
    listing.others = pairs.others


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror) if strerror else one_line(error)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring samples of one shard."""

    path: str
    size: int
    """Bytes of the whole shard."""
    pairs: list[Pair]
    last: bool
    """No more of this shard follows."""

    def read(self, pair: Pair) -> tuple[bytes, bytes]:
        """Read the JPEG and the JSON of one of the pairs.

        Raises:
            OSError: the shard vanished, changed, or the files are absurdly large.
        """
        if max(pair.jpeg.size, pair.json.size) > MAX_MEMBER:
            raise OSError(f"a file of more than {MAX_MEMBER >> 20} MiB")
        if is_unpacked(self.path):
            return read_pair(self.path, pair.key, sizes=(pair.jpeg.size, pair.json.size))
        try:
            jpeg, text = open_source(self.path).read_many([pair.jpeg, pair.json], size=self.size)
        except OSError as error:
            raise OSError(_reason(error)) from None
        return jpeg, text


class ScanPart(Protocol):
    """Findings in some samples of a shard, or in all of them."""

    def merge(self, other: Self) -> None:
        """Add what was found in the samples that follow."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Convert to the arrays that are kept on disk; none of objects."""

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Restore from `arrays`. Raises KeyError or ValueError if they are none of this kind."""


P = TypeVar("P", bound=ScanPart)


@dataclass(frozen=True, slots=True)
class Kept(Generic[P]):
    """The parts of finished shards in a folder."""

    folder: Path
    kind: type[P]
    settings: dict[str, Any]
    """Settings that a part depends on beside its shard."""

    def load(self, path: str) -> P | None:
        """Load the part of a shard if it was kept and neither shard nor settings have changed."""
        try:
            with np.load(self._file(path), allow_pickle=False) as arrays:
                if str(arrays["fingerprint"]) != self._fingerprint(path):
                    return None
                return self.kind.from_arrays({n: arrays[n] for n in arrays.files})
        except (OSError, UserError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def save(self, path: str, part: P) -> None:
        """Keep the part of a finished shard, unless the shard has vanished meanwhile."""
        try:
            fingerprint = self._fingerprint(path)
        except (OSError, UserError):
            return
        data = io.BytesIO()
        np.savez_compressed(data, fingerprint=np.array(fingerprint), **part.arrays())  # type: ignore[arg-type]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(self._file(path), data.getbuffer())

    def clear(self) -> None:
        """Forget every part."""
        for file in self.folder.glob("*.npz"):
            file.unlink()

    def _file(self, path: str) -> Path:
        return self.folder / f"{hashlib.sha256(path.encode()).hexdigest()[:20]}.npz"

    def _fingerprint(self, path: str) -> str:
        facts: Facts = open_source(path).facts()
        return json.dumps([path, facts.size, facts.stamp, self.settings], sort_keys=True)


@dataclass(frozen=True, slots=True)
class _Examined(Generic[P]):
    part: P
    samples: int
    last: bool


def _examine(chunk: Chunk, examine: Callable[[Chunk], P]) -> _Examined[P]:
    return _Examined(examine(chunk), len(chunk.pairs), chunk.last)


def scan(
    paths: Sequence[str],
    *,
    begin: Callable[[ShardListing], P],
    examine: Callable[[Chunk], P],
    kept: Kept[P] | None = None,
    workers: int = 0,
    what: str = "reading",
) -> Iterator[tuple[str, P]]:
    """Scan the shards; returns every shard's path and part, in the order of the paths.

    Args:
        begin: what the headers alone show; called in this process.
        examine: what a chunk of samples shows; must be sendable to a process.
        kept: where finished shards are kept; None keeps nothing.
        workers: see `command.parallel`.
        what: in front of the progress bar.

    Raises:
        UserError: a process died, or a shard that was kept changed meanwhile.
    """
    done = {path for path in paths if kept and kept.load(path) is not None}
    todo = [path for path in paths if path not in done]
    begun: dict[str, P] = {}
    sizes: dict[str, int] = {}

    def chunks() -> Iterator[Chunk]:
        for path in todo:
            listing = list_shard(path)
            begun[path] = begin(listing)
            sizes[path] = len(listing.pairs)
            # A shard without a sample is one empty chunk, so that its end is seen too.
            for first in range(0, max(len(listing.pairs), 1), CHUNK):
                stop = first + CHUNK
                pairs = listing.pairs[first:stop]
                yield Chunk(path, listing.size, pairs, last=stop >= len(listing.pairs))

    results = command.parallel(partial(_examine, examine=examine), chunks(), workers=workers)
    samples = 0
    with command.progress(what, total=len(paths), unit="shards") as bar:
        for number, path in enumerate(paths, start=1):
            if kept and path in done:
                if (part := kept.load(path)) is None:
                    raise UserError(f"{path} changed while this ran; run it again")
            else:
                for result in results:
                    begun[path].merge(result.part)
                    samples += result.samples
                    steps = result.samples / max(sizes[path], 1)
                    bar.advance(steps, note=f"shards, {samples:,} samples")
                    if result.last:
                        break
                part = begun.pop(path)
                if kept:
                    kept.save(path, part)
            bar.reach(number)
            yield path, part
