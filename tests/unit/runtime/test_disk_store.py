"""The bounded store: intact or absent, within its bound, whoever is killed and whatever is full."""

from __future__ import annotations

import logging
import os
import pickle
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sam_train.runtime.disk_store import DiskStore

BLOCK = 4096
"""Bytes that an entry of a few takes."""


def opened(folder: Path, *, limit: int = 1 << 30) -> DiskStore:
    return DiskStore(folder, limit=limit, setting="some.cache")


def payload(number: int, *, size: int = 3000) -> bytes:
    return np.random.default_rng(number).bytes(size)


def read(store: DiskStore, key: bytes) -> bytes | None:
    found = store.get(key)
    return None if found is None else bytes(found)


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*") if path.is_file()]


def on_disk(folder: Path) -> int:
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in entries(folder))


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own and return its number."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def ended_well(process: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def age(folder: Path, *, seconds: float) -> None:
    for path in entries(folder):
        old = path.stat().st_mtime - seconds
        os.utime(path, (old, old))


def test_what_was_put_comes_back_in_any_process(tmp_path: Path) -> None:
    store = opened(tmp_path / "made" / "store")
    assert store.get(b"a") is None
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    assert store.put(b"a", b"head", array.data)
    assert store.put(b"", b"")
    again = pickle.loads(pickle.dumps(opened(store.folder)))
    assert read(again, b"a") == b"head" + array.tobytes()
    assert read(again, b"") == b""
    assert again.get(b"b") is None
    assert (again.hits, again.misses, again.damaged) == (2, 1, 0)
    assert again.limit == 1 << 30 and again.setting == "some.cache"


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "grown", "swapped"])
def test_a_damaged_entry_is_absent_and_can_be_made_again(tmp_path: Path, harm: str) -> None:
    store = opened(tmp_path)
    store.put(b"a", payload(1))
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[-1000] ^= 1
    elif harm == "cut":
        del content[-1:]
    elif harm == "empty":
        content.clear()
    elif harm == "grown":
        content += b"x"
    else:  # intact, but of another key
        store.put(b"b", payload(2))
        (other,) = set(entries(tmp_path)) - {path}
        content = bytearray(other.read_bytes())
    path.write_bytes(content)
    assert store.get(b"a") is None
    assert store.damaged == 1
    assert store.put(b"a", payload(1))
    assert read(store, b"a") == payload(1)


def test_the_least_recently_used_go_first_and_the_bound_holds(tmp_path: Path) -> None:
    limit = 20 * BLOCK
    before = opened(tmp_path, limit=limit)
    for number in range(20):
        assert before.put(b"old%d" % number, payload(number))
    assert len(entries(tmp_path)) == 20
    age(tmp_path, seconds=1000)
    # Read by a later store, or simply younger.
    store = opened(tmp_path, limit=limit)
    used = [3, 11]
    assert all(store.get(b"old%d" % number) for number in used)
    for number in range(5):
        assert store.put(b"new%d" % number, payload(number))
        assert on_disk(tmp_path) <= limit
    assert all(store.get(b"new%d" % number) for number in range(5))
    assert all(store.get(b"old%d" % number) for number in used)
    # Down to nine tenths at first, so that most entries find room at once.
    assert 18 <= len(entries(tmp_path)) <= 20


def test_a_set_larger_than_the_bound_keeps_its_first_entries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path, limit=10 * BLOCK)
    with caplog.at_level(logging.INFO, logger="sam_train"):
        for _ in range(3):  # epochs
            hits = store.hits
            for number in range(15):
                if store.get(b"%d" % number) is None:
                    store.put(b"%d" % number, payload(number))
    assert store.hits - hits == 10
    assert on_disk(tmp_path) == 10 * BLOCK
    # Said once, and no fault.
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert f"some.cache={tmp_path} is full" in caplog.text
    assert not store.off


def test_killed_writers_leave_nothing_half_done(tmp_path: Path) -> None:
    limit, size = 200 * BLOCK, 30_000

    def write(of: int) -> Callable[[], None]:
        def work() -> None:
            store = opened(tmp_path, limit=limit)
            for number in range(of, 100_000):
                store.put(b"%d" % number, payload(number % 7, size=size))

        return work

    for _ in range(3):
        writers = [forked(write(of)) for of in (0, 0, 50_000)]
        before = time.monotonic() + 20
        while len(entries(tmp_path)) < 4 and time.monotonic() < before:
            time.sleep(0.001)
        for writer in writers:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        assert on_disk(tmp_path) <= limit
    # A file that its process never finished.
    left = entries(tmp_path)[0].with_name(".abc.1.ffff.part")
    left.write_bytes(bytes(1000))
    store = opened(tmp_path, limit=limit)
    assert not [path for path in entries(tmp_path) if path.name.startswith(".")]
    found = len(entries(tmp_path))
    assert found >= 4
    numbers = [*range(5000), *range(50_000, 55_000)]
    intact = {n: got for n in numbers if (got := read(store, b"%d" % n)) is not None}
    assert len(intact) == found
    assert store.damaged == 0
    assert all(got == payload(number % 7, size=size) for number, got in intact.items())
    # A store that opens later finds none of them in use.
    assert opened(tmp_path, limit=limit).put(b"after", payload(1))


def test_processes_that_fill_one_store_stay_within_its_bound(tmp_path: Path) -> None:
    limit = 100 * BLOCK
    shared = opened(tmp_path, limit=limit)

    def work() -> None:
        for number in range(60):
            key = b"%d" % (number * 37 % 150 + os.getpid() % 3)
            got = shared.get(key)
            assert got is None or got == payload(len(key))
            shared.put(key, payload(len(key)))
            assert on_disk_now(tmp_path) <= limit

    writers = [forked(work) for _ in range(4)]
    for writer in writers:
        assert ended_well(writer)
    assert 50 <= len(entries(tmp_path)) <= 100
    assert not [path for path in entries(tmp_path) if path.name.startswith(".")]


def on_disk_now(folder: Path) -> int:
    """Sum sizes while others rename: a file under two names in turn counts once, or not."""
    total = 0
    for path in folder.glob("??/*"):
        try:
            total += -(-path.stat().st_size // BLOCK) * BLOCK
        except FileNotFoundError:
            continue
    return total


def test_a_full_disk_turns_it_off_in_all_processes_of_a_run(tmp_path: Path) -> None:
    """A limit on the size of files refuses bytes in the middle of a write, as a full disk does."""
    opened(tmp_path).put(b"small", payload(0))

    def work() -> None:
        store = opened(tmp_path)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))

        def fill() -> None:
            assert not store.put(b"0", payload(1, size=50_000))

        assert ended_well(forked(fill))
        # Another process of the run found it; this one does not try.
        assert store.off
        assert not store.put(b"1", payload(1))
        assert read(store, b"small") == payload(0)

    assert ended_well(forked(work))
    assert len(entries(tmp_path)) == 1
    store = opened(tmp_path)
    assert store.put(b"0", payload(1, size=50_000))


@pytest.mark.parametrize("error", [28, 30, 13, 5])
def test_any_refusal_is_said_once(
    tmp_path: Path, error: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)

    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", refuse)
        assert not store.put(b"a", payload(1))
    assert not store.put(b"b", payload(1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"some.cache={tmp_path} cannot be written ({os.strerror(error)})" in caplog.text
    assert not entries(tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store = opened(tmp_path / "file" / "store")
    assert store.off
    assert store.get(b"a") is None
    assert not store.put(b"a", b"b")
    assert len(caplog.records) == 1


def test_a_damaged_sum_is_counted_anew(tmp_path: Path) -> None:
    store = opened(tmp_path, limit=10 * BLOCK)
    for content in (b"", b"half", b"much too long for it"):
        (tmp_path / "total").write_bytes(content)
        assert store.put(content, payload(1))
    assert int.from_bytes((tmp_path / "total").read_bytes(), "little") == 3 * BLOCK


def test_a_stopped_process_that_holds_the_lock_costs_an_entry_and_no_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam_train.runtime.disk_store._LOCK_SECONDS", 0.01)
    store = opened(tmp_path)
    with store._total_locked() as total:
        assert total is not None
        assert not store.put(b"a", payload(1))
    assert not store.off
    assert store.put(b"a", payload(1))
