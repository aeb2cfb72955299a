"""`python -m data_tools.download` as a process: its answers, its end, full disks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_place import Place, made
from http_server import Behaviour

from data_tools import download


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with made(tmp_path) as running:
        yield running


def test_the_command_from_failure_to_success(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.server.behave("sa_000001.tar", Behaviour(status=403))
    place.server.behave("sa_000003.tar", Behaviour(status=404))
    assert place.command() == 1
    shown = capsys.readouterr().out
    assert "2 of 4 files could not be had:" in shown
    assert re.search(r"sa_000001\.tar  HTTP 403.*\n  sa_000003\.tar  HTTP 404", shown)
    assert "save a new list from the licence page" in shown
    retry = place.out / "failed.tsv"
    assert f"python -m data_tools.download {retry} --out {place.out}" in shown
    assert place.is_equal(0, 2)
    place.server.behave("sa_000001.tar", Behaviour())
    assert download.main([str(retry), "--out", str(place.out)]) == 1
    place.server.behave("sa_000003.tar", Behaviour())
    place.server.forget()
    assert download.main([str(retry), "--out", str(place.out)]) == 0
    assert {seen.path for seen in place.server.seen} == {"sa_000003.tar"}
    assert place.files() == {f"sa_{k:06d}.tar" for k in range(4)}
    assert place.is_equal(0, 1, 2, 3)


def test_the_dry_run_prints_the_plan_and_touches_nothing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.server.behave("sa_000002.tar", Behaviour(status=404))
    assert place.command("--dry-run") == 0
    assert not place.out.exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["sa_000000.tar", "206.8", "kB", "to", "fetch"]
    assert "no such file on the server" in lines[2]
    assert lines[4] == "4 files: 3 to fetch; 1 not to be had"
    assert lines[5].startswith("620.5 kB to come (")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "7"], "--only 7 fits none of the 4 files"),
        (["--checksums", "sums"], "cannot read the checksums"),
    ],
)
def test_what_the_user_must_mend_is_one_line(
    place: Place, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.command(*arguments) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1


def _start(place: Place, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "data_tools.download", str(place.list_file())]
    return subprocess.Popen(
        [*command, "--out", str(place.out), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_bytes(place: Place, process: subprocess.Popen[str], least: int) -> None:
    parts = [place.out / f"{link.file_name}.part" for link in place.links()]
    while process.poll() is None:
        if all(part.exists() and part.stat().st_size >= least for part in parts):
            return
        os.sched_yield()


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT], ids=["killed", "stopped"])
def test_a_run_that_ends_in_the_middle_goes_on_where_it_was(
    place: Place, kind: signal.Signals
) -> None:
    place.server.behave("*", Behaviour(stall_after=50_000, no_etag=True))
    with _start(place, "--stall-seconds", "600") as process:
        _wait_for_bytes(place, process, 50_000)
        assert place.command() == 2  # the folder is held
        process.send_signal(kind)
        _, errors = process.communicate(timeout=60)
    if kind is signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again to go on" in errors
    place.server.behave("*", Behaviour())
    place.server.forget()
    assert place.command() == 0
    assert place.ranges() == ["bytes=50000-"] * 4
    assert place.is_equal(0, 1, 2, 3)


TMPFS = 'mount -t tmpfs -o size=300k none "$1" && shift && "$@"'
"""In a namespace of its own: needs no rights, and is gone with the process."""


def _on_a_small_disk(place: Place, script: str) -> subprocess.CompletedProcess[str]:
    place.out.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", TMPFS, "sh"]
    run = [sys.executable, "-m", "data_tools.download", str(place.list_file())]
    words = [*command, str(place.out), "sh", "-c", script, "sh", *run, "--out", str(place.out)]
    try:
        probe = subprocess.run([*command, str(place.out), "true"], check=False, capture_output=True)
    except FileNotFoundError:
        pytest.skip("this system has no unshare")
    if probe.returncode:
        pytest.skip("this system lets nobody mount a disk of his own")
    return subprocess.run(words, check=False, capture_output=True, text=True)


def test_too_small_a_disk_is_refused_before_the_start(place: Place) -> None:
    done = _on_a_small_disk(place, '"$@"')
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: 827\.4 kB are to come, but \S+ has \d+\.\d kB free: .*\(1 fit\)\n", done.stderr
    )
    assert {seen.range for seen in place.server.seen} == {"bytes=0-0"}


def test_a_disk_that_becomes_full_ends_the_run_and_room_lets_it_go_on(place: Place) -> None:
    # Without lengths the full disk cannot be foreseen.
    place.server.behave("*", Behaviour(ignore_range=True, no_length=True))
    out = place.out
    done = _on_a_small_disk(
        place, f'"$@"; echo "status $?"; mount -o remount,size=3m "{out}" && "$@" && ls "{out}"'
    )
    assert "status 2" in done.stdout
    assert re.search(rf"error: the disk of {out} is full \(No space left on device\)", done.stderr)
    assert "run the same command again" in done.stderr
    assert done.returncode == 0, done.stderr
    assert "sa_000003.tar" in done.stdout


def test_a_limit_on_the_length_of_files_ends_the_run(place: Place) -> None:
    with _start(place) as process:
        out, errors = process.communicate()
    assert process.returncode == 0, out + errors
    limited = f"ulimit -f 100; exec {sys.executable} -m data_tools.download"
    out = place.out.parent / "other"
    done = subprocess.run(
        ["sh", "-c", f"{limited} {place.list_file()} --out {out}"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "takes no file as large as sa_00000" in done.stderr
