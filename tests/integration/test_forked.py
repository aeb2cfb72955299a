"""A forked Python does what a fresh one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from waiting import until

LOOK = "import os, sys; print(os.getcwd(), os.environ['WORD'], sys.argv, sys.stdin.read())"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["-c", LOOK, "a b", "é"], 0),
        (["-c", "import sys; sys.exit(75)"], 75),
        (["-c", "raise SystemExit('why')"], 1),
        (["-c", "import os; os._exit(3)"], 3),
        (["-c", "import os; os.kill(os.getpid(), 9)"], -9),
        (["-c", "import atexit; atexit.register(print, 'at the end'); print('before')"], 0),
        (["-m", "sam_train", "what"], 2),
        (["program.py", "1"], 0),
    ],
)
def test_output_and_status_are_those_of_a_fresh_one(
    words: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text("import sys; print(__name__, sys.argv, __file__)")
    fresh, quick = (
        subprocess.run(
            [python, *words],
            cwd=tmp_path,
            env=os.environ | {"WORD": "=x\ny"},
            input="typed",
            capture_output=True,
            text=True,
            check=False,
        )
        for python in (sys.executable, forked.python())
    )
    assert quick.returncode == fresh.returncode == code
    assert (quick.stdout, quick.stderr) == (fresh.stdout, fresh.stderr)


def test_what_it_starts_is_forked_too() -> None:
    code = "import os, subprocess, sys; print(os.getppid()); sys.stdout.flush(); "
    code += "subprocess.run([sys.executable, '-c', 'import os; print(os.getppid())'])"
    done = subprocess.run([forked.python(), "-c", code], capture_output=True, check=True)
    server, again = done.stdout.split()
    assert server == again


WAIT = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda number, _: print("told", flush=True))
print(os.getpid(), flush=True)
signal.pause()
while True: time.sleep(60)
"""


def test_signals_arrive_and_it_dies_with_its_client() -> None:
    with subprocess.Popen([forked.python(), "-c", WAIT], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        assert child != run.pid
        run.send_signal(signal.SIGUSR1)
        assert run.stdout.readline() == "told\n"
        run.kill()
    until(lambda: not Path(f"/proc/{child}").exists(), "the forked process to end")


INHERITED = """
import os, signal, sys
print(os.read(int(sys.argv[1]), 5), signal.pthread_sigmask(signal.SIG_BLOCK, []))
print([signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)])
"""


def test_files_and_signals_are_handed_on() -> None:
    """What multiprocessing's spawned processes need: pipes by number, Ctrl-C left to the parent."""
    said = []
    for python in (sys.executable, forked.python()):
        reader, writer = os.pipe()
        os.write(writer, b"typed")
        ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            command = [python, "-c", INHERITED, str(reader)]
            done = subprocess.run(command, pass_fds=[reader], capture_output=True, check=True)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.signal(signal.SIGHUP, ignored)
            os.close(reader)
            os.close(writer)
        said.append(done.stdout)
    assert said[0] == said[1]
    assert b"typed" in said[1]
    assert b"SIGINT" in said[1]
    assert b"SIG_IGN" in said[1]
