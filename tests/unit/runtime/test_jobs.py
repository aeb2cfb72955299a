"""Work that many processes share: order, skips, and journals that survive a kill."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pytest

from sam_train.runtime import jobs
from sam_train.runtime.jobs import Progress, SkipItem, append_line, read_journal, work_through


def test_items_are_done_in_order_and_read_beside() -> None:
    main, readers, kept = threading.get_ident(), set(), []

    def load(item: int) -> int:
        readers.add(threading.get_ident())
        if item == 2:
            raise SkipItem("odd", "it is two")
        return item * 10

    def do(item: int, loaded: int) -> str:
        assert threading.get_ident() == main
        if item == 4:
            raise SkipItem("even")
        return f"{item}: {loaded}"

    work_through(
        range(6),
        load=load,
        do=do,
        skip=lambda item, reason: f"{item}: {reason}",
        keep=kept.append,
        ahead=2,
        progress=Progress("numbers", total=6),
    )
    assert kept == ["0: 0", "1: 10", "2: odd (it is two)", "3: 30", "4: even", "5: 50"]
    assert main not in readers


def test_an_error_ends_the_reading() -> None:
    begun: list[int] = []

    def fail(item: int, loaded: None) -> None:
        raise KeyError(item)

    with pytest.raises(KeyError):
        work_through(
            range(1000),
            load=begun.append,
            do=fail,
            skip=lambda *_: None,
            keep=lambda _: None,
            ahead=2,
            progress=Progress("numbers"),
        )
    assert len(begun) <= 3


def test_a_journal_outlives_a_kill_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    assert read_journal(path, json.loads) == []
    with path.open("a+b") as file:
        for number in range(3):
            append_line(file, json.dumps({"n": number}).encode())
    whole = path.read_bytes()
    assert whole.count(b"\n") == 3
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:-cut])
        left = whole[:-cut].count(b"\n")
        assert read_journal(path, json.loads) == [{"n": k} for k in range(left)]
        with path.open("a+b") as file:
            append_line(file, b'{"n": 9}')
        # The line that a kill cut may have been complete but for its line break.
        read = read_journal(path, json.loads)
        assert read[:left] == [{"n": k} for k in range(left)]
        assert read[-1] == {"n": 9}


def test_progress_says_how_long_it_takes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now)
    known, unknown = Progress("points", total=10), Progress("photos")
    monkeypatch.setattr(logging.getLogger("sam_train"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="sam_train"):
        for second in (10, 30, 40):
            now = 100.0 + second
            known.step()
            unknown.step()
    assert caplog.messages == [
        "points: 2 of 10, 0.0667 a second, 2:00 left",
        "photos: 2, 0.0667 a second",
    ]
