"""Shards copied to a local disk: the same bytes, the same order, only once."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event

import pytest

from data_tools import stage_in
from data_tools.stage_in import main
from sam_train.data.patterns import resolve
from sam_train.data.sources import Source


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
