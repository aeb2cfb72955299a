"""A shard with its row in an index, and the place of a sample in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sam_train.data.left_out import Skip
from sam_train.data.photos.rule import PhotoRule
from sam_train.data.shards.index import Index, ShardRow
from sam_train.data.shards.unpacked import read_pair, split, times_of
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import Source, Span, is_remote, short_name
from sam_train.data.storage.tar import BLOCK, Header, parse_header
from sam_train.errors import UserError

MAX_MEMBER = 1 << 28
"""Bytes. A photo or JSON above this is damage, and not read (SA-1B's are below 10 MB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A sample, not decoded yet."""

    jpeg: bytes
    json: bytes
    pixels: npt.NDArray[np.uint8] | None = None
    """[H, W, 3] RGB in place of the JPEG, of a photo that is stored as something else."""
    skips: Sequence[Skip] = ()
    """Masks that its data set has, and that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlace:
    """The place of one sample in a shard. Small enough to be sent to a process, which reads it."""

    path: str
    """The shard's."""
    shard_size: int
    """Bytes."""
    key: str
    """Member name without extension."""
    jpeg: Span
    json: Span
    unpacked: bool = False
    """The shard is a folder."""

    @property
    def name(self) -> str:
        """The name for messages: `shard.tar/sa_12`."""
        return f"{short_name(self.path)}/{self.key}"

    def read(self, source: Source | None = None) -> Entry:
        """Read the sample.

        Args:
            source: the opened shard where there is one.

        Raises:
            OSError: as `Shards.read`.
        """
        if max(self.jpeg.size, self.json.size) > MAX_MEMBER:
            raise OSError(f"a file of more than {MAX_MEMBER >> 20} MiB")
        if self.unpacked:
            sizes = self.jpeg.size, self.json.size
            jpeg, json = read_pair(self.path, self.key, sizes=sizes)
            return Entry(jpeg=jpeg, json=json)
        # With the headers: a shard of the same size may have taken this one's place.
        spans = [Span(each.offset - BLOCK, each.size + BLOCK) for each in (self.jpeg, self.json)]
        # One request where the two files are neighbours, as in SA-1B's tars.
        blocks = (source or open_source(self.path)).read_many(spans, size=self.shard_size)
        for block, kind in zip(blocks, ("jpg", "json"), strict=True):
            if not _is_header_of(block, key=self.key, kind=kind):
                raise OSError(f"{short_name(self.path)} changed since it was indexed")
        return Entry(jpeg=blocks[0][BLOCK:], json=blocks[1][BLOCK:])


@dataclass(slots=True, kw_only=True)
class IndexedShard:
    """A shard, and its number in the index that knows it."""

    has_groups: ClassVar[bool] = False
    """False: `group` need not be asked, sample by sample."""
    path: str
    index: Index
    shard: int
    _source: Source | None = field(default=None, init=False, repr=False)

    @property
    def row(self) -> ShardRow:
        """The shard's row in the index."""
        return self.index.rows[self.shard]

    @property
    def ends(self) -> list[str]:
        """The keys that a fingerprint looks at: of the first and the last sample."""
        rows = (0, self.row.samples - 1) if self.row.samples else ()
        return [self.index.key(self.shard, row) for row in rows]

    @property
    def folder(self) -> Path | None:
        """The folder that may hold lists of its samples; None on a server."""
        return None if is_remote(self.path) else Path(self.path).parent

    @property
    def left_out(self) -> list[str]:
        """Lines about what it holds beside its samples, where its row does not say so."""
        return []

    def group(self, row: int) -> str | None:
        """Return the scene, stack or case that a sample is a part of; None: it stands alone."""
        return None

    def images(self) -> list[Path]:
        """Return the photos that lie in files of their own; a shard has none."""
        return []

    def show_by(self, rule: PhotoRule) -> None:
        """Show photos beyond 8-bit RGB by a rule; a shard has none.

        Raises:
            UserError: the rule asks for more bands than its JPEGs have.
        """
        # Else the model's first convolution would fail, with the names of no file and no setting.
        if len(rule.bands) > 3:
            raise UserError(
                f"model.bands={list(rule.bands)}: the JPEGs of {self.path} have three bands; name "
                "photos with more by a data set's format, such as masks:FOLDER"
            )

    def read(self, row: int) -> Entry:
        """Read a sample.

        Raises:
            OSError: as `Shards.read`.
        """
        if self._source is None:
            self._source = open_source(self.path)
        return self.place(row).read(self._source)

    def stamp(self, row: int) -> bytes | None:
        """Return what a sample's content follows from: the shard's size and time, and its place.

        None: the files cannot be looked at.
        """
        try:
            place = self.place(row)
            times = times_of(place.path, place.key) if place.unpacked else ()
        except OSError:
            return None
        # The index's stamp is the file's time, or the server's tag.
        shard = place.path, place.shard_size, self.row.stamp
        facts = (*shard, place.key, place.jpeg, place.json, times)
        return repr(facts).encode()

    def place(self, row: int) -> SamplePlace:
        """Return where a sample lies.

        Raises:
            OSError: the index is damaged there.
        """
        jpeg, json = self.index.spans(self.shard, row)
        key = self.index.key(self.shard, row)
        return SamplePlace(
            path=self.path,
            shard_size=self.row.size,
            key=key,
            jpeg=jpeg,
            json=json,
            unpacked=self.row.unpacked,
        )


def _is_header_of(block: bytes, *, key: str, kind: str) -> bool:
    header: Header | None = parse_header(block[:BLOCK])
    if header is None or header.size != len(block) - BLOCK:
        return False
    # A longer name stands in a block of its own, and this one holds a part of it.
    plain = key.isascii() and len(key) + len(".jpeg") < 100
    return not plain or split(header.name) == (key, kind)
