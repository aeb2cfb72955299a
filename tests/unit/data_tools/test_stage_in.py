"""Shards copied to a local disk: the same bytes, the same order, only once."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_tools.stage_in import main
from sam_train.data.patterns import resolve


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
