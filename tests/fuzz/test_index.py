"""Index files of anybody: refused in one line, or every answer lies inside the shard."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fuzzing import damaged, edits, fuzz, within
from hypothesis import given
from hypothesis import strategies as st

from sam_train.data.shards.index import Index, build_index, compact, open_index
from sam_train.data.shards.walk import ShardIndex
from sam_train.data.storage.tar import BLOCK
from sam_train.errors import UserError

pytestmark = pytest.mark.fuzz

_HEADER = struct.Struct("<8sIIQQ")
_NUMBERS = [-1, 0, 1, 2, 3, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 70]


def _shard(path: str, keys: list[str]) -> ShardIndex:
    places = np.arange(len(keys))[:, None] * [4 * BLOCK, 0] + [BLOCK, 700]
    return ShardIndex(
        path=path,
        size=4 * BLOCK * len(keys) + BLOCK,
        stamp="1",
        keys=keys,
        jpegs=places,
        jsons=np.add(places, [3 * BLOCK, -300]),
        without_json=[],
        without_jpeg=["sa_9.json"],
        damage=None,
    )


def true_index() -> Index:
    """A shard of numbered names and one of others."""
    shards = [_shard("a.tar", ["sa_1", "sa_22", "sa_3"]), _shard("b.tar", ["x", "ü/y", "sa_007"])]
    return build_index([compact(shard) for shard in shards])


def _as_bytes(index: Index) -> bytes:
    out = io.BytesIO()
    index.write(out)
    return out.getvalue()


TRUE = _as_bytes(true_index())
TABLE = _HEADER.unpack(TRUE[: _HEADER.size])[3]


def with_table(data: bytes, table: bytes, samples: int) -> bytes:
    """The file with another table, which its header vouches for."""
    rest = data[-(-(_HEADER.size + TABLE) // 4096) * 4096 :]
    header = _HEADER.pack(b"SAINDEX\n", 1, zlib.crc32(table), len(table), samples)
    return header + table + bytes(-(_HEADER.size + len(table)) % 4096) + rest


@st.composite
def files(draw: st.DrawFn) -> bytes:
    data, samples = TRUE, 6
    table = TRUE[_HEADER.size : _HEADER.size + TABLE]
    kind = draw(st.integers(0, 3))
    if kind == 1:  # records and names
        at = draw(st.integers(0, 5)) * 20 + draw(st.integers(0, 4)) * 4
        at += -(-(_HEADER.size + TABLE) // 4096) * 4096
        value = draw(st.sampled_from([0, 1, 7, 100, (1 << 32) - 1]) | st.integers(0, 1 << 20))
        data = data[:at] + struct.pack("<I", value) + data[at + 4 :]
    elif kind == 2:  # a field of the table, vouched for
        rows = msgspec.json.decode(table)
        field = draw(st.sampled_from(sorted(rows[0])))
        values = st.sampled_from([*_NUMBERS, None, "", "../x", "sa_", [], 1.5, True])
        rows[draw(st.integers(0, 1))][field] = draw(values)
        samples = draw(st.sampled_from([6, 6, 6, 0, 5, 7, 1 << 40, (1 << 64) - 1]))
        try:
            data = with_table(data, msgspec.json.encode(rows), samples)
        except OverflowError:  # more than msgspec writes
            return data
    elif kind == 3:
        text = damaged(table, draw(edits(most=2))) if draw(st.booleans()) else b"[" * 3000
        data = with_table(data, text, samples)
    return damaged(data, draw(st.just([]) | edits(most=2)))


def check(index: Index) -> None:
    """Whatever it says, it says about bytes of its shards."""
    for shard, row in enumerate(index.rows):
        for sample in range(min(row.samples, 10)):
            key = index.key(shard, sample)
            assert isinstance(key, str)
            try:
                spans = index.spans(shard, sample)
            except OSError as error:
                assert "index" in str(error)
                continue
            for span in spans:
                assert span.offset >= BLOCK
                assert span.end <= row.size or span.size == (1 << 32) - 1
        found = index.find(shard, ["sa_22", "ü/y", "sa_007", "?", "sa_99999999999"])
        assert all(0 <= sample < row.samples for sample in found)
        assert index.part(shard).row is row


@given(files() | st.binary(max_size=80))
@fuzz(short=300)
def test_index_files_are_refused_in_a_line_or_stay_inside(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.bin"
    path.write_bytes(data)
    try:
        index = within(200_000 + 100 * len(data), open_index, path)
    except UserError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)
        assert "data_tools.index" in str(error)
        return
    check(index)
    if data == TRUE:
        assert index.rows == true_index().rows


def test_a_true_index_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "sa_index.bin"
    path.write_bytes(TRUE)
    index = open_index(path)
    check(index)
    keys = [index.key(shard, sample) for shard in (0, 1) for sample in range(3)]
    assert keys == ["sa_1", "sa_22", "sa_3", "x", "ü/y", "sa_007"]
    assert index.find(1, ["ü/y"]).tolist() == [1]
    again = pickle.loads(pickle.dumps(index))
    assert [again.key(1, 1), again.spans(1, 1)] == ["ü/y", index.spans(1, 1)]
