"""Shards copied to a local disk: the same bytes, the same order, only once."""

from __future__ import annotations

import tarfile
import time
from pathlib import Path
from threading import Event

import pytest

from data_tools import index, stage_in
from data_tools.stage_in import main
from sam_train.data.shards import reader as shards_module
from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.data.shards.walk import ShardIndex, index_shard
from sam_train.data.storage.sources import Source


def shard(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() * 700)
    return path


def staged(to: Path) -> list[str]:
    """Contents in training's order."""
    return [Path(p).read_text()[:1] for p in resolve(str(to / "shards.txt"), option="data.train")]


def test_copies_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate("abc"):
        shard(tmp_path / "from" / f"sa_{number}.tar", text)
    to = tmp_path / "to"
    assert main([str(tmp_path / "from"), "--to", str(to)]) == 0
    assert staged(to) == ["a", "b", "c"]
    assert "3 shards, 3 copied" in capsys.readouterr().out
    # Half a copy, and one that nobody asks for any more.
    (to / "sa_1.tar").write_bytes(b"half")
    before = (to / "sa_0.tar").stat().st_mtime_ns
    assert main([str(tmp_path / "from" / "sa_{0..1}.tar"), "--to", str(to)]) == 0
    assert "2 shards, 1 copied" in capsys.readouterr().out
    assert staged(to) == ["a", "b"]
    assert (to / "sa_0.tar").stat().st_mtime_ns == before


def test_shards_of_several_folders_keep_their_order(tmp_path: Path) -> None:
    originals = [
        shard(tmp_path / "x" / "b.tar", "1"),
        shard(tmp_path / "x" / "c.tar", "2"),
        shard(tmp_path / "y" / "a.tar", "3"),
        shard(tmp_path / "y" / "b.tar", "4"),
    ]
    assert main([*map(str, originals), "--to", str(tmp_path / "to")]) == 0
    assert staged(tmp_path / "to") == ["1", "2", "3", "4"]


def test_no_such_shard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.tar"), "--to", str(tmp_path / "to")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_nothing_more_is_copied_once_a_shard_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        shard(tmp_path / "from" / f"sa_{number:02d}.tar", "a")
    read = Source.read

    def failing(self: Source, *span: int) -> bytes:
        if self.name == "sa_01.tar":
            raise OSError(5, "Input/output error")
        time.sleep(0.02)
        return read(self, *span)

    monkeypatch.setattr(Source, "read", failing)
    to = tmp_path / "to"
    assert main([str(tmp_path / "from"), "--to", str(to), "--parallel", "1"]) == 2
    assert "Input/output error" in capsys.readouterr().err
    # The one thread may have begun another before the failure was seen, not eighteen.
    assert len(list(to.glob("*.tar"))) < 10
    assert not list(to.glob(".*.part"))


def test_a_copy_under_way_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large shard beside one that failed."""
    large = shard(tmp_path / "from" / "a.tar", "a" * 100)
    shard(tmp_path / "from" / "b.tar", "b")
    failed = Event()
    read, chunks = Source.read, []

    def watched(self: Source, offset: int, size: int) -> bytes:
        if self.name == "b.tar":
            failed.set()
            raise OSError(5, "Input/output error")
        failed.wait(10)
        chunks.append(offset)
        time.sleep(0.01)
        return read(self, offset, size)

    monkeypatch.setattr(Source, "read", watched)
    monkeypatch.setattr(stage_in, "_CHUNK", 100)
    assert main([str(tmp_path / "from"), "--to", str(tmp_path / "to")]) == 2
    assert len(chunks) < large.stat().st_size // 100
    assert list((tmp_path / "to").iterdir()) == []


def tar(path: Path, first: int, samples: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in range(first, first + samples):
            for name in (f"sa_{number}.jpg", f"sa_{number}.json"):
                archive.addfile(tarfile.TarInfo(name))
        archive.addfile(tarfile.TarInfo("lonely.jpg"))
    return str(path)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the shards whose headers were walked."""
    paths: list[str] = []

    def walk(path: str) -> ShardIndex:
        paths.append(path)
        return index_shard(path)

    monkeypatch.setattr(stage_in, "index_shard", walk)
    monkeypatch.setattr(shards_module, "index_shard", walk)
    return paths


def keys(shards: Shards) -> list[str]:
    return [shards.place(k).key for k in range(len(shards))]


@pytest.mark.parametrize("indexed", [True, False])
def test_copies_have_an_index(tmp_path: Path, walked: list[str], indexed: bool) -> None:
    """That of the originals, under the names of the copies; else they are walked, once."""
    originals = [tar(tmp_path / "x" / "b.tar", 0, 3), tar(tmp_path / "y" / "a.tar", 10, 2)]
    if indexed:
        for path in originals:
            assert index.main([path, "--workers", "0"]) == 0
    to = tmp_path / "to"
    for _ in range(2):
        assert main([*originals, "--to", str(to)]) == 0
        staged = open_shards(str(to / "shards.txt"), option="data.train")
        assert keys(staged) == ["sa_0", "sa_1", "sa_2", "sa_10", "sa_11"]
        assert [row.name for row in staged.rows] == ["000000-b.tar", "000001-a.tar"]
        assert [row.without_json for row in staged.rows] == [1, 1]
        assert len(walked) == (0 if indexed else 2)
    # Another shard in the place of one: only that one is copied, and known, anew.
    tar(Path(originals[1]), 20, 12)
    assert main([*originals, "--to", str(to)]) == 0
    walked.clear()
    staged = open_shards(str(to / "shards.txt"), option="data.train")
    assert keys(staged)[3:] == [f"sa_{number}" for number in range(20, 32)]
    assert walked == []


def test_a_damaged_index_is_made_anew(tmp_path: Path, walked: list[str]) -> None:
    originals, to = tar(tmp_path / "a.tar", 0, 3), tmp_path / "to"
    for folder in (tmp_path, to):
        folder.mkdir(exist_ok=True)
        (folder / "sa_index.bin").write_bytes(b"SAINDEX\n")
    for _ in range(2):
        assert main([originals, "--to", str(to)]) == 0
        assert len(open_shards(str(to / "shards.txt"), option="data.train")) == 3
    assert walked == [str(to / "a.tar")]
