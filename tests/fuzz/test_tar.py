"""Archives of anybody: nothing outside the file, nothing unsafe, tarfile's listing where true."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path

import pytest
from fuzzing import damaged, edits, fuzz, within
from hypothesis import given
from hypothesis import strategies as st

from sam_train.data.shards.walk import index_shard
from sam_train.data.storage.tar import BLOCK, Listing, list_members

pytestmark = pytest.mark.fuzz

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
FIELDS = {"name": (0, 100), "size": (124, 12), "kind": (156, 1), "prefix": (345, 155)}
_VALUES = {
    "name": [b"", b"/etc/passwd.jpg", b"../sa_1.jpg", b"a\nb.jpg", b"\x1b[2J.json", b"\xff.jpg"],
    "size": [
        *(b"", b"7" * 12, b"-0000000001\0", b"00000000001\0", b"           \0", b"1_0\0", b"8\0"),
        *(b"\x80" + b"\xff" * 11, b"\x80" + bytes(10) + b"\x01", b"\xff" * 12, b"00004000000\0"),
    ],
    "kind": [bytes([k]) for k in b"0123456789LKxgSV\0\xff"],
    "prefix": [b"", b"..", b"/", b"a/../..", b"\xff" * 155],
}
_PAX = [
    b"",
    b"11 size=-1\n",
    b"12 size=999\n\0",
    b"30 path=../../etc/passwd.jpg\n",
    b"9" * 5000 + b" path=a\n",
    b"6000 size=" + b"9" * 5990,
    b"4 =\n" * 600,
    b"0 path=a\n",
    b"18 path=sa_9.json\n",
    b"19 size=18446744073709551616\n",
    b"7 size=\n",
]


@cache
def true_tar(format: int) -> bytes:
    """Three members, one of them of a name too long for a header."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, size in (("sa_1.jpg", 700), ("sa_1.json", 20), ("d/" * 60 + "sa_2.jpg", 512)):
            info = tarfile.TarInfo(name)
            info.size = size
            tar.addfile(info, io.BytesIO(b"x" * size))
    return out.getvalue()[: 9 * BLOCK + 2 * BLOCK * (format != tarfile.USTAR_FORMAT)]


def with_field(block: bytes, field: str, value: bytes, *, mended: bool) -> bytes:
    """A header with another value in a field, and its checksum made right again or not."""
    at, length = FIELDS[field]
    block = block[:at] + value[:length].ljust(length, b"\0") + block[at + length :]
    if mended:
        total = sum(block) - sum(block[148:156]) + 8 * 32
        block = block[:148] + b"%06o\0 " % total + block[156:]
    return block


def extension(kind: bytes, payload: bytes) -> bytes:
    """A long name or pax record as a member of its own."""
    info = tarfile.TarInfo("x")
    info.size, info.type = len(payload), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + payload + bytes(-len(payload) % BLOCK)


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    data = true_tar(draw(st.sampled_from(FORMATS)))
    if draw(st.booleans()):
        payload = draw(st.sampled_from(_PAX) | st.binary(max_size=700))
        at = draw(st.sampled_from([0, BLOCK, 3 * BLOCK, 5 * BLOCK]))
        data = data[:at] + extension(draw(st.sampled_from([b"x", b"L", b"g"])), payload) + data[at:]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data) // BLOCK - 1)) * BLOCK
        field = draw(st.sampled_from(list(FIELDS)))
        value = draw(st.sampled_from(_VALUES[field]) | st.binary(max_size=FIELDS[field][1]))
        mended = draw(st.booleans())
        data = (
            data[:at]
            + with_field(data[at : at + BLOCK], field, value, mended=mended)
            + data[at + BLOCK :]
        )
    return damaged(data, draw(st.just([]) | edits(most=3)))


def check(listing: Listing, size: int) -> None:
    """Members lie inside the file one after the other, and their names inside a folder."""
    end = 0
    for member in listing.members:
        assert end + BLOCK <= member.offset
        end = member.offset + member.size
        assert member.offset <= end <= size
        assert member.name.isprintable()
        assert not member.name.startswith("/")
        assert ".." not in member.name.split("/")


@given(archives() | st.binary(max_size=3 * BLOCK))
@fuzz(short=400)
def test_archives_are_listed_inside_their_file(data: bytes) -> None:
    reads = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        assert offset >= 0
        assert 0 <= length <= max(BLOCK, len(data))
        return data[offset : offset + length]

    listing = within(100_000 + 20 * len(data), list_members, read_at, size=len(data))
    check(listing, len(data))
    assert reads <= 2 * (len(data) // BLOCK + 1)


@given(archives())
@fuzz(short=100)
def test_shards_are_indexed_without_a_word(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    path.write_bytes(data)
    found = index_shard(str(path))
    for spans in (found.jpegs, found.jsons):
        assert len(spans) == len(found.keys)
        assert ((spans >= 0).all() and (spans.sum(axis=1) <= len(data)).all()) or not len(spans)


@pytest.mark.parametrize("format", FORMATS)
def test_true_archives_are_tarfiles(format: int) -> None:
    data = true_tar(format)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    listing = list_members(lambda at, length: data[at : at + length], size=len(data))
    assert [(m.name, m.offset, m.size) for m in listing.members] == expected
    assert len(expected) == 3
    assert Path(expected[2][0]).name == "sa_2.jpg"
