"""The index: what goes in comes out, damage is named, and 11 M samples share little memory."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_train.data.shards.index import (
    FILE_NAME,
    Index,
    KeySet,
    ShardPart,
    ShardRow,
    build_index,
    compact,
    open_index,
)
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.data.shards.walk import ShardIndex, index_shard
from sam_train.errors import UserError


def saved(index: Index, path: Path) -> Path:
    with path.open("wb") as file:
        index.write(file)
    return path


def walked(keys: list[str], *, path: str = "sa_0.tar", size: int = 1 << 40) -> ShardIndex:
    places = 512 * np.arange(1, 2 * len(keys) + 1, dtype=np.int64).reshape(-1, 2)
    sizes = np.arange(len(keys), dtype=np.int64)
    return ShardIndex(
        path=path,
        size=size,
        stamp="1",
        keys=keys,
        jpegs=np.stack([places[:, 0], sizes], axis=1),
        jsons=np.stack([places[:, 1], sizes + 7], axis=1),
        without_json=["b.jpg"],
        without_jpeg=[],
        damage=None,
    )


def test_members_are_where_tarfile_finds_them(tmp_path: Path, make: Any) -> None:
    paths = []
    for k, prefix in enumerate(["", "./", "folder/", "ü" * 60]):
        files = [(prefix + name, data) for n in (10, 9, 11) for name, data in make.sample_files(n)]
        paths.append(make.pack(tmp_path / f"sa_{k}.tar", files))
    index = open_index(
        saved(build_index([compact(index_shard(str(p))) for p in paths]), tmp_path / "i")
    )
    assert len(index) == 12
    for shard, path in enumerate(paths):
        with tarfile.open(path) as tar:
            members = {m.name.removeprefix("./"): (m.offset_data, m.size) for m in tar}
        assert index.rows[shard].size == path.stat().st_size
        for sample in range(3):
            key = index.key(shard, sample)
            places = [(span.offset, span.size) for span in index.spans(shard, sample)]
            assert places == [members[f"{key}.jpg"], members[f"{key}.json"]]


def test_a_size_too_large_to_store_does_not_excuse_the_other_file(tmp_path: Path) -> None:
    """Found by `make fuzz`: the photo's size said "refused when read", the JSON lay outside."""
    found = walked(["sa_1"], size=4096)
    found.jpegs[0, 1] = (1 << 32) - 1
    assert open_index(saved(build_index([compact(found)]), tmp_path / "a")).spans(0, 0)
    found.jsons[0, 0] = 1 << 20
    index = open_index(saved(build_index([compact(found)]), tmp_path / "b"))
    with pytest.raises(OSError, match="outside the shard"):
        index.spans(0, 0)


names = st.lists(
    st.one_of(
        st.integers(0, 10**12).map(lambda n: f"sa_{n}"),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
        st.integers(0, 99).map(lambda n: f"a/{n:03d}"),
    ),
    max_size=8,
    unique=True,
)


@given(st.lists(names, min_size=1, max_size=4))
@settings(deadline=None)
def test_any_names_come_back_and_are_found(tmp_path_factory: Any, shards: list[list[str]]) -> None:
    built = build_index([compact(walked(keys)) for keys in shards])
    file = tmp_path_factory.getbasetemp() / "names.bin"
    for index in (built, open_index(saved(built, file)), pickle.loads(pickle.dumps(built))):
        for shard, keys in enumerate(shards):
            assert [index.key(shard, k) for k in range(len(keys))] == keys
            wanted = KeySet([*keys[1:2], "none", "sa_00"])
            assert index.find(shard, wanted).tolist() == [1] * len(keys[1:2])
    again = build_index([open_index(file).part(shard) for shard in range(len(shards))])
    assert saved(again, file.with_suffix(".2")).read_bytes() == file.read_bytes()


def test_numbered_names_take_no_room(tmp_path: Path) -> None:
    index = build_index([compact(walked([f"sa_{n}" for n in range(0, 50_000, 5)]))])
    assert saved(index, tmp_path / "i").stat().st_size <= 4096 + 20 * 10_000


@given(st.integers(0, 9000), st.binary(min_size=1, max_size=9))
@settings(deadline=None, max_examples=200)
def test_overwritten_bytes_are_named_or_stay_inside_the_shard(
    tmp_path_factory: Any, at: int, noise: bytes
) -> None:
    size = 512 * 1000
    both = [[f"sa_{n}" for n in range(100)], [f"{n:03d}" for n in range(100)]]
    built = build_index([compact(walked(keys, size=size)) for keys in both])
    file = saved(built, tmp_path_factory.getbasetemp() / "noise.bin")
    data = bytearray(file.read_bytes())
    at = at % len(data)
    data[at : at + len(noise)] = noise
    file.write_bytes(data)
    try:
        index = open_index(file)
    except UserError as error:
        assert "python -m data_tools.index" in str(error)
        return
    for shard in range(2):
        for sample in range(100):
            assert isinstance(index.key(shard, sample), str)
            try:
                spans = index.spans(shard, sample)
            except OSError:
                continue
            assert all(512 <= s.offset <= s.end for s in spans)
            assert all(s.end <= size or 2**32 - 1 in {t.size for t in spans} for s in spans)


@pytest.mark.parametrize("cut", [0, 10, 31, 32, 200, 4096, 5000])
def test_a_cut_file_is_named(tmp_path: Path, cut: int) -> None:
    file = saved(build_index([compact(walked([f"sa_{n}" for n in range(100)]))]), tmp_path / "i")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"is (no index|damaged)"):
        open_index(file)


def test_a_missing_or_other_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_index(tmp_path / "none")
    file = saved(build_index([compact(walked(["a"]))]), tmp_path / "i")
    data = bytearray(file.read_bytes())
    data[8] = 9
    file.write_bytes(data)
    with pytest.raises(UserError, match="version 9"):
        open_index(file)


def test_a_replaced_file_is_not_mistaken_for_the_old_one(tmp_path: Path) -> None:
    file = saved(build_index([compact(walked(["a", "b"]))]), tmp_path / "i")
    index = open_index(file)
    sent = pickle.dumps(index)
    assert len(sent) < 500
    assert pickle.loads(sent).key(0, 1) == "b"
    other = saved(build_index([compact(walked(["a"]))]), tmp_path / "other")
    other.replace(file)
    assert index.key(0, 1) == "b"
    with pytest.raises(UserError, match="was replaced while it was in use"):
        pickle.loads(sent)


def indexed(folder: Path) -> None:
    """What data_tools.index does, in short."""
    parts = []
    for path in sorted(folder.glob("*.tar")):
        found = index_shard(str(path))
        found = ShardIndex(**{**{n: getattr(found, n) for n in found.__slots__}, "path": path.name})
        parts.append(compact(found))
    saved(build_index(parts), folder / FILE_NAME)


def contents(shards: Shards) -> list[tuple[str, bytes]]:
    return [(shards.key(k), shards.read(k).jpeg) for k in range(len(shards))]


def test_training_takes_what_is_current_and_walks_the_rest(
    shard: Callable[..., Path], tmp_path: Path, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [shard(2, name=f"sa_{k}.tar", first=10 * k) for k in range(4)]
    indexed(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / FILE_NAME).rename(tmp_path / "elsewhere" / "moved.bin")
    expected = contents(open_shards(str(tmp_path), option="data.train"))
    for number in (0, 2):  # a subset, found by name alone
        some = open_shards(str(paths[number]), option="data.train", index=moved)
        assert contents(some) == expected[2 * number : 2 * number + 2]
        assert some._parts[0].index.path == moved
    moved.rename(tmp_path / FILE_NAME)
    paths[1].touch()  # a copy: another time, the same content
    make.pack(paths[2], make.sample_files(77))
    shard(1, name="sa_4.tar", first=90)
    shards = open_shards(str(tmp_path), option="data.train")
    from_file = [part.index.path is not None for part in shards._parts]
    assert from_file == [True, True, False, True, False]
    assert [shards.key(k) for k in range(len(shards))] == [
        *(f"sa_0.tar/sa_{n}" for n in (0, 1)),
        *(f"sa_1.tar/sa_{n}" for n in (10, 11)),
        *("sa_2.tar/sa_77", "sa_3.tar/sa_30", "sa_3.tar/sa_31", "sa_4.tar/sa_90"),
    ]
    assert "sa_2.tar changed since it was indexed" in caplog.text
    assert shards.first.tolist() == [0, 2, 4, 5, 7, 8]
    assert contents(pickle.loads(pickle.dumps(shards))) == contents(shards)


def test_a_shard_of_the_same_size_in_its_place_is_noticed(
    shard: Callable[..., Path], tmp_path: Path, make: Any
) -> None:
    path = shard(2)
    indexed(tmp_path)
    size = path.stat().st_size
    make.pack(path, [("sa_0.jpg", b"x"), *make.sample_files(1)])
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    shards = open_shards(str(path), option="data.train")
    assert [shards.key(k) for k in range(len(shards))] == ["sa_000000.tar/sa_1"]


SHARDS, SAMPLES = 1000, 11_000_000
READER = """
import random, sys
from sam_train.data.shards.reader import open_shards

def memory():
    lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return kib["Pss"], kib["Private_Clean"] + kib["Private_Dirty"]

before = memory()
shards = open_shards(sys.argv[1], option="data.train")
assert len(shards) == 11_000_000
draw = random.Random(int(sys.argv[2]))
for _ in range(20_000):
    sample = draw.randrange(len(shards))
    place = shards.place(sample)
    assert place.jpeg.size == 1000 + sample % 1000 and place.key == f"sa_{sample}", place
print("ready", flush=True)
sys.stdin.readline()
after = memory()
print(*(a - b for a, b in zip(after, before)), flush=True)
sys.stdin.readline()
"""


def big_index(folder: Path) -> None:
    """1000 shards of 11,000 samples each: empty files of the right length, and their index."""
    each = SAMPLES // SHARDS
    local = np.arange(each, dtype=np.uint32)
    parts = []
    for k in range(SHARDS):
        path = folder / f"sa_{k:06d}.tar"
        with path.open("wb") as file:
            file.truncate(11 << 30)
        status = path.stat()
        sample = local + k * each
        fields = (2000 * local + 1, 1000 + sample % 1000, 2000 * local + 1800, local, sample)
        row = ShardRow(
            name=path.name,
            size=status.st_size,
            stamp=str(status.st_mtime_ns),
            samples=each,
            prefix="sa_",
        )
        parts.append(ShardPart(row=row, records=np.stack(fields, axis=1).astype("<u4")))
    saved(build_index(parts), folder / FILE_NAME)


def test_eleven_million_samples_are_shared_by_the_processes_of_a_node(tmp_path: Path) -> None:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("memory is measured through /proc/self/smaps_rollup")
    big_index(tmp_path)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path), str(k)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for k in range(3)
    ]
    try:
        streams = [(r.stdin, r.stdout) for r in readers]
        grown = []
        for into, out in streams:
            assert into is not None and out is not None
            assert out.readline() == "ready\n"
        for into, out in streams:  # while all are alive
            assert into is not None and out is not None
            into.write("\n")
            into.flush()
            grown.append([int(kib) / 1024 for kib in out.readline().split()])
    finally:
        for reader in readers:
            reader.communicate("\n")
    (tmp_path / FILE_NAME).unlink()
    proportional, private = (sum(column) for column in zip(*grown, strict=True))
    assert proportional < 300, f"{proportional:.0f} MiB on the node"
    assert private < 30 * len(readers), f"{private:.0f} MiB that are not shared"
