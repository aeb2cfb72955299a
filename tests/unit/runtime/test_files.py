"""Atomic writes: after a failure the file before is there, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from sam_train.runtime import files
from sam_train.runtime.files import atomic, create, link, write_atomically, write_json, write_text


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_failure_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def half(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, half)
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert names(tmp_path) == {"a.json"}
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "a.txt", "a")


def test_nobody_sees_the_file_before_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with atomic(path) as unfinished:
        unfinished.write_bytes(b"all of it")
        assert not path.exists()
        # A glob for shards that runs meanwhile.
        assert not list(tmp_path.glob("*.tar"))
    assert path.read_bytes() == b"all of it"


def test_the_bytes_are_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen, sync = tmp_path / "a", [], os.fsync

    def watched(handle: int) -> None:
        seen.append(path.exists())
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", watched)
    with atomic(path, durable=True) as unfinished:
        unfinished.write_text("a")
    # The file under its hidden name, then the folder.
    assert seen == [False, True]


def test_a_second_name_replaces_what_had_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("new")
    second.write_text("old")
    link(first, second)
    assert second.samefile(first)

    def unknown(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(files.os, "link", unknown)
    link(first, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "new"
    assert not (tmp_path / "copy").samefile(first)
    assert names(tmp_path) == {"first", "second", "copy"}
    # Where a file has one name only, the first to create it still wins.
    assert create(tmp_path / "mine", b"1")
    assert not create(tmp_path / "mine", b"2")
    assert (tmp_path / "mine").read_bytes() == b"1"


def test_one_of_many_creates_a_file(tmp_path: Path) -> None:
    assert [create(tmp_path / "a", bytes([k])) for k in range(3)] == [True, False, False]
    assert (tmp_path / "a").read_bytes() == b"\0"
    assert names(tmp_path) == {"a"}
