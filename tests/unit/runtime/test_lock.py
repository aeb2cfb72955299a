"""Locks among processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from sam_train.runtime.lock import locked, try_lock

HOLD = """
import sys, time
from pathlib import Path
from sam_train.runtime.lock import try_lock
file = try_lock(Path(sys.argv[1]))
print("held" if file else "refused", flush=True)
sys.stdin.read()
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"a line\n")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        assert try_lock(path) is None
    finally:
        other.kill()
        other.wait()
    file = try_lock(path)
    assert file is not None
    with file:
        assert file.read() == b"a line\n"
        assert try_lock(path) is None
        file.write(b"another\n")
    assert path.read_bytes() == b"a line\nanother\n"


def test_the_second_waits(tmp_path: Path) -> None:
    done: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock"):
            done.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        done.append("first")
    thread.join()
    assert done == ["first", "second"]
