"""Places of every sample of many shards, in one file that all processes of a node share.

Layout, little-endian:
    0       magic, version, CRC-32 and length of the table, number N of samples
    32      the table: JSON, a `ShardRow` for each of the P shards
    at the next multiple of 4096
            the records: uint32 [N, 5]: jpeg block, jpeg size, json block, json size, name
    behind  names that are no `prefix + number`

A block is 512 bytes, the unit of a tar. A sample takes 20 bytes in one place: the 11 M of SA-1B
take 224 MB, which are mapped and read as they are needed, one page a sample. Opening looks at the
table only; what a record says is checked when its sample is read, because the file may be damaged
like any other.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from sam_train.data.shards.walk import ShardIndex
from sam_train.data.storage.sources import Span
from sam_train.data.storage.tar import BLOCK
from sam_train.errors import UserError

FILE_NAME = "sa_index.bin"
"""The index of a folder, in the folder."""
_MAGIC = b"SAINDEX\n"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQQ")
_PAGE = 4096
_FIELDS = 5
_MAX_U32 = (1 << 32) - 1
_MAX_TABLE = 1 << 28
# Without leading zeros, which a number does not keep, and below 2^32.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_NUMBERED = re.compile(rf"(.*?)({_NUMBER.pattern})", re.DOTALL)


class ShardRow(msgspec.Struct, kw_only=True, frozen=True):
    """A shard's row of the table."""

    name: str
    """Path: relative to the index where the shard lies below it, else absolute; or URL."""
    size: int
    """Bytes."""
    stamp: str
    """Size and version as of `sources.Facts`."""
    samples: int
    prefix: str | None
    """Keys are this and the number in the field `name`; None: they stand behind the records, and
    the field says where each ends."""
    names_size: int = 0
    """Bytes of this shard behind the records."""
    damage: str | None = None
    """The reason why the walk ended early, if it did."""
    without_json: int = 0
    """Photos without JSON, which are no samples."""
    without_jpeg: int = 0
    """JSONs without photo."""
    refused: int = 0
    """Links, devices and names that point out of the archive, which are never read."""
    first_without_json: str = ""
    first_without_jpeg: str = ""
    first_refused: str = ""
    others: int = 0
    """Files that are neither a photo nor a JSON."""
    first_other: str = ""
    unpacked: bool = False
    """A folder of files: records have sizes and no places; `size` counts its entries."""


_table_decoder = msgspec.json.Decoder(list[ShardRow])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPart:
    """A shard's share of an index."""

    row: ShardRow
    records: npt.NDArray[np.uint32]
    """[n, 5]."""
    names: bytes = b""


def compact(found: ShardIndex) -> ShardPart:
    """Convert a walked shard to the form in which it is stored."""
    prefix, numbers, names = _pack_names(found.keys)
    records = np.empty((len(found.keys), _FIELDS), dtype="<u4")
    for k, members in ((0, found.jpegs), (2, found.jsons)):
        # Members begin on blocks of 512 bytes: uint32 reaches 2 TiB.
        records[:, k] = members[:, 0] // BLOCK
        records[:, k + 1] = np.minimum(members[:, 1], _MAX_U32)  # refused when it is read
    records[:, 4] = numbers
    row = ShardRow(
        name=found.path,
        size=found.size,
        stamp=found.stamp,
        samples=len(found.keys),
        prefix=prefix,
        names_size=len(names),
        damage=found.damage,
        without_json=len(found.without_json),
        without_jpeg=len(found.without_jpeg),
        refused=len(found.refused),
        first_without_json=next(iter(found.without_json), ""),
        first_without_jpeg=next(iter(found.without_jpeg), ""),
        first_refused=next(iter(found.refused), ""),
        others=len(found.others),
        first_other=next(iter(found.others), ""),
        unpacked=found.unpacked,
    )
    return ShardPart(row=row, records=records, names=names)


def _pack_names(keys: Sequence[str]) -> tuple[str | None, list[int], bytes]:
    split = [_NUMBERED.fullmatch(key) for key in keys]
    # SA-1B's keys are `sa_N`: one prefix and a number each, no names stored.
    prefixes = {match[1] if match is not None else None for match in split}
    if len(prefixes) == 1 and None not in prefixes:
        return prefixes.pop(), [int(match[2]) for match in split if match is not None], b""
    encoded = [key.encode() for key in keys]
    # Bytes, not characters: names are stored as UTF-8.
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    return None, ends.tolist(), b"".join(encoded)


class KeySet:
    """Keys to look for in many shards."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = frozenset(keys)
        self._numbers: dict[str, npt.NDArray[np.uint32]] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def numbers(self, prefix: str) -> npt.NDArray[np.uint32]:
        """Return the n of all keys that are `prefix + n`, rising; computed once for a prefix."""
        if prefix not in self._numbers:
            rests = [key[len(prefix) :] for key in self._keys if key.startswith(prefix)]
            numbers = sorted(int(rest) for rest in rests if _NUMBER.fullmatch(rest))
            self._numbers[prefix] = np.array(numbers, dtype=np.uint32)
        return self._numbers[prefix]


class Index:
    """N samples of P shards. Picklable: one that was opened travels as its path."""

    def __init__(
        self,
        rows: Sequence[ShardRow],
        records: npt.NDArray[np.uint32],
        names: bytes | memoryview,
        *,
        path: Path | None = None,
        checksum: int = 0,
    ) -> None:
        """Args:
        records: uint32 [N, 5].
        names: of the shards without a prefix, one after the other.
        path: the file that it lies in; None if it is only in memory.
        checksum: CRC-32 of the table in the file.
        """
        self.rows = list(rows)
        # A leading 0 makes first[s + 1] - first[s] the samples of shard s.
        self.first = np.cumsum([0, *(row.samples for row in self.rows)], dtype=np.int64)
        """int64 [P + 1]: shard s owns the samples first[s] .. first[s + 1] - 1."""
        self.path = path
        self._records = records
        self._names = names
        # int64: the names of many shards may pass 4 GiB together, though not those of one.
        self._names_first = np.cumsum([0, *(row.names_size for row in self.rows)], dtype=np.int64)
        self._checksum = checksum

    def __len__(self) -> int:
        return int(self.first[-1])

    def spans(self, shard: int, sample: int) -> tuple[Span, Span]:
        """Return the places of photo and JSON of a shard's sample.

        Raises:
            OSError: not inside the shard: the index is damaged.
        """
        jpeg_block, jpeg_size, json_block, json_size = (
            int(value) for value in self._records[self._at(shard, sample), :4]
        )
        jpeg, json = Span(jpeg_block * BLOCK, jpeg_size), Span(json_block * BLOCK, json_size)
        # Files in a folder have no places in a shard that could be checked.
        if self.rows[shard].unpacked:
            return jpeg, json
        for span in (jpeg, json):
            # A header lies before each. The largest size stands for larger ones, which are refused
            # when they are read.
            end = span.offset if span.size == _MAX_U32 else span.end
            if span.offset < BLOCK or end > self.rows[shard].size:
                raise OSError("its place in the index lies outside the shard: make the index again")
        return jpeg, json

    def key(self, shard: int, sample: int) -> str:
        """Return the member's name without extension; `?` and the place where the index is
        damaged."""
        at = self._at(shard, sample)
        number, row = int(self._records[at, 4]), self.rows[shard]
        if row.prefix is not None:
            return f"{row.prefix}{number}"
        # Without a prefix the fifth number is where the name ends in the shard's text.
        begin = int(self._records[at - 1, 4]) if sample else 0
        base = int(self._names_first[shard])
        # A damaged index must not stop a run for the sake of a message.
        if not begin <= number <= row.names_size:
            return f"?{sample}"
        return bytes(self._names[base + begin : base + number]).decode("utf-8", "replace")

    def find(self, shard: int, keys: KeySet | Iterable[str]) -> npt.NDArray[np.int64]:
        """Find the samples of a shard that have one of these keys, rising."""
        row = self.rows[shard]
        if not isinstance(keys, KeySet):
            keys = KeySet(keys)
        if row.prefix is None:
            found = [k for k in range(row.samples) if self.key(shard, k) in keys]
            return np.array(found, dtype=np.int64)
        numbers = keys.numbers(row.prefix)
        if not len(numbers):
            return np.empty(0, dtype=np.int64)
        names = self._records[self.first[shard] : self.first[shard + 1], 4]
        # By bisection: 11 million keys against a list of exclusions.
        # `searchsorted` answers one place too far for names above all of them.
        nearest = np.minimum(np.searchsorted(numbers, names), len(numbers) - 1)
        return np.flatnonzero(numbers[nearest] == names)

    def part(self, shard: int) -> ShardPart:
        """Take a shard's share, to build another index with."""
        names = slice(*(int(at) for at in self._names_first[shard : shard + 2]))
        return ShardPart(
            row=self.rows[shard],
            records=self._records[self.first[shard] : self.first[shard + 1]],
            names=bytes(self._names[names]),
        )

    def _at(self, shard: int, sample: int) -> int:
        if not 0 <= sample < self.rows[shard].samples:
            raise IndexError(sample)
        return int(self.first[shard]) + sample

    def write(self, file: BinaryIO) -> None:
        """Write the file format. A full disk is an OSError at once."""
        table = msgspec.json.encode(self.rows)
        # The checksum covers the table alone: a sum over 224 MB would be read at each start.
        file.write(_HEADER.pack(_MAGIC, _VERSION, zlib.crc32(table), len(table), len(self)))
        file.write(table)
        # The records begin on a page, so that they can be mapped.
        file.write(bytes(-(_HEADER.size + len(table)) % _PAGE))
        file.write(np.ascontiguousarray(self._records, dtype="<u4").data)
        file.write(self._names)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker reopens the file by its path rather than receiving 220 MB.
        if self.path is None:
            return Index, (self.rows, self._records, bytes(self._names))
        return _reopen, (self.path, self._checksum)


def build_index(parts: Sequence[ShardPart]) -> Index:
    """Build the index of several shards in memory."""
    records = np.concatenate([np.empty((0, _FIELDS), "<u4"), *(p.records for p in parts)])
    return Index([p.row for p in parts], records, b"".join(p.names for p in parts))


def open_index(path: str | Path) -> Index:
    """Map an index file; only its table is read.

    Raises:
        UserError: it is missing, damaged, or of another version.
    """
    path = Path(path)
    advice = "make it again with `python -m data_tools.index`"
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size or not header.startswith(_MAGIC):
                raise UserError(f"{path} is no index of shards; {advice}.")
            _, version, checksum, table_size, samples = _HEADER.unpack(header)
            if version != _VERSION:
                raise UserError(f"{path} has version {version}, not {_VERSION}; {advice}.")
            # Mapped read-only: the processes of a node share one copy in the page cache.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # No more than there is: read() takes the memory before it looks.
            table = file.read(min(table_size, _MAX_TABLE, len(mapped)))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {advice}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {advice}.") from None
    # Checked before parsing, so a damaged table is never interpreted.
    rows = _rows(table) if zlib.crc32(table) == checksum else None
    begin = -(-(_HEADER.size + len(table)) // _PAGE) * _PAGE
    middle = begin + samples * _FIELDS * 4
    if (
        rows is None
        or sum(row.samples for row in rows) != samples
        # The file's length follows from the table exactly; anything else was cut or appended to.
        or middle + sum(row.names_size for row in rows) != len(mapped)
    ):
        raise UserError(f"{path} is damaged; {advice}.")
    records = np.frombuffer(mapped, dtype="<u4", count=_FIELDS * samples, offset=begin)
    return Index(
        rows,
        records.reshape(samples, _FIELDS),
        memoryview(mapped)[middle:],
        path=path,
        checksum=checksum,
    )


def _rows(table: bytes) -> list[ShardRow] | None:
    try:
        rows = _table_decoder.decode(table)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    numbers = [
        (r.size, r.samples, r.names_size, r.without_json, r.without_jpeg, r.refused) for r in rows
    ]
    # Sums of sizes are compared with the file's length, which negative ones could forge.
    return rows if all(min(each) >= 0 for each in numbers) else None


def _reopen(path: Path, checksum: int) -> Index:
    index = open_index(path)
    # Places of another file would be read as if they were of this one.
    if index._checksum != checksum:
        raise UserError(f"{path} was replaced while it was in use; start the run again.")
    return index
