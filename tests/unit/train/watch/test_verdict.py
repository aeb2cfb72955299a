"""Who hangs, from what each process says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from sam_train.train.watch.heartbeats import (
    Heartbeat,
    Heartbeats,
    condition,
    kill,
    place,
    silent,
    stacks,
    started,
)
from sam_train.train.watch.pulse import Pulse
from sam_train.train.watch.verdict import hanging, sentence


def beat(
    rank: int, step: int, stage: str, *, waits: bool = False, state: str = "alarm"
) -> Heartbeat:
    return Heartbeat(
        rank=rank,
        host=f"node{rank}",
        pid=1,
        step=step,
        stage=stage,
        waits=waits,
        state=state,
        where=f"f{rank} (a/b.py:1)",
    )


def by_rank(*beats: Heartbeat) -> dict[int, Heartbeat]:
    return {b.rank: b for b in beats}


def test_who_does_not_wait_is_the_reason() -> None:
    beats = by_rank(
        beat(0, 7, "forward", waits=True), beat(1, 7, "forward"), beat(2, 7, "forward", waits=True)
    )
    assert hanging(beats, []) == [1]


def test_who_is_least_far_is_the_reason() -> None:
    beats = by_rank(beat(0, 8, "backward"), beat(1, 7, "update"), beat(2, 8, "forward"))
    assert hanging(beats, []) == [1]
    beats = by_rank(beat(0, 7, "backward"), beat(1, 7, "forward"), beat(2, 7, "update"))
    assert hanging(beats, []) == [1]


def test_who_is_silent_is_the_reason_whatever_the_others_do() -> None:
    beats = by_rank(beat(0, 1, "forward"), beat(1, 7, "update"))
    assert hanging(beats, [1, 2]) == [1, 2]
    text = sentence(beats, [1, 2], world_size=3, host="elsewhere", minutes=15)
    assert "rank 1 (node1) gives no sign of life any more, last seen behind step 7, update" in text
    assert "rank 2 never gave a sign of life" in text
    assert "rank 0" not in text


def test_nobody_is_accused_where_all_do_the_same() -> None:
    beats = by_rank(*(beat(rank, 7, "backward", waits=True) for rank in range(4)))
    text = sentence(beats, [], world_size=4, host="", minutes=0.5)
    assert "all 4 processes stand still" in text
    assert "0.5 minutes" in text


def test_a_rank_that_ended_is_mentioned_but_does_not_hang() -> None:
    beats = by_rank(beat(0, 7, "backward", waits=True), beat(1, 2, "forward", state="ended"))
    assert hanging(beats, []) == [0]
    text = sentence(beats, [], world_size=2, host="", minutes=1)
    assert "rank 1 (node1) has ended before" in text


def test_many_are_counted() -> None:
    text = sentence({}, range(40), world_size=64, host="", minutes=15)
    assert "rank 2 never" in text
    assert "and 37 more" in text
    assert "\n" not in text


def test_a_counter_that_stands_still_is_silence(tmp_path: Path) -> None:
    beats = Heartbeats(tmp_path)
    one, two = beat(0, 1, "forward", state="running"), beat(1, 1, "forward", state="running")
    gone = beat(3, 1, "forward", state="ended")
    for b in (one, two, gone):
        beats.write(b)
    before = beats.read(4)
    assert before[0] == one
    one.count += 1
    beats.write(one)
    after = beats.read(4)
    assert silent(before, after, 4) == [1, 2]
    # Its first beat came between the two looks.
    assert silent({}, after, 2) == []
    (tmp_path / "rank=0.json").write_text('{"half')
    assert sorted(beats.read(4)) == [1, 3]


def test_the_last_to_end_removes_the_files(tmp_path: Path) -> None:
    beats = Heartbeats(tmp_path / "beats")
    beats.folder.mkdir()
    for rank, state in enumerate(("ended", "running")):
        beats.write(beat(rank, 1, "end", state=state))
    beats.close(3)
    beats.close(2)
    assert sorted(beats.read(2)) == [0, 1]
    beats.write(beat(1, 1, "end", state="ended"))
    beats.close(2)
    assert not beats.folder.exists()


def test_the_kernel_says_what_a_silent_process_does() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        ill = beat(0, 1, "forward")
        ill.pid, ill.started = process.pid, started(process.pid)
        assert ill.started > 0
        os.kill(process.pid, 19)
        os.waitpid(process.pid, os.WUNTRACED)
        assert condition(ill) == f"is stopped by a signal (pid {process.pid})"
        other = beat(0, 1, "forward")
        other.pid, other.started = process.pid, ill.started - 1
        kill(other)
        assert process.poll() is None
        assert condition(other).startswith("is gone")
        kill(ill)
        assert process.wait(timeout=10) == -9
    finally:
        process.kill()
        process.wait()
    assert condition(ill) == f"is gone (pid {process.pid})"


def test_a_place_is_what_a_thread_does_and_why() -> None:
    def stand() -> None:
        event.wait(60)

    event = threading.Event()
    thread = threading.Thread(target=stand, name="standing")
    thread.start()
    time.sleep(0.05)
    try:
        where, waits = place(sys._current_frames()[thread.ident or 0])
        assert where.startswith("wait (")
        assert "threading.py:" in where
        assert not waits
        text = stacks()
        assert "thread MainThread" in text
        assert "thread standing" in text
        assert "event.wait(60)" in text
    finally:
        event.set()
        thread.join()
    assert place(None) == ("", False)


def test_patience_grows_with_what_was_seen() -> None:
    pulse = Pulse()
    assert pulse.patience(10) == 20
    pulse.beat("update", step=1)
    assert pulse.patience(10) == 10
    pulse.at -= 3
    pulse.beat("forward")
    assert 15 <= pulse.patience(10) < 20
    assert pulse.stalled < 1
    # One long pause, as of a suspended job, must not make it patient for ever.
    pulse.at -= 1000
    pulse.forgive(1000)
    assert pulse.stalled < 1
    pulse.beat("backward")
    assert pulse.patience(10) < 20
    pulse.at -= 30
    pulse.beat("measuring")
    assert 45 <= pulse.patience(10) < 50
    pulse.restart()
    assert (pulse.step, pulse.steps, pulse.longest) == (0, 0, 0.0)
