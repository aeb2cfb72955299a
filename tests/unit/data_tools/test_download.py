"""`python -m data_tools.download` against a real server that cuts, stalls and lies."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from http_server import Behaviour, HostileServer

from data_tools import download
from data_tools.download_checks import Checksum
from data_tools.download_fetch import Policy
from data_tools.download_links import Link
from data_tools.download_part import Arrival
from data_tools.download_plan import State
from data_tools.download_run import Downloader, Outcome

SIZE = 206_848
"""Bytes of each tar."""
QUICK = Policy(retries=3, stall_seconds=0.3, first_wait=0.01, longest_wait=0.02)


@dataclass(slots=True)
class Place:
    """A server with four tars, and a folder for them."""

    server: HostileServer
    source: Path
    out: Path

    def links(self, count: int = 4) -> list[Link]:
        names = [f"sa_{k:06d}.tar" for k in range(count)]
        return [Link(name, self.server.url(name) + "?signature=secret") for name in names]

    def list_file(self, count: int = 4) -> Path:
        path = self.source.parent / "links.tsv"
        rows = [f"{link.file_name}\t{link.url}\n" for link in self.links(count)]
        path.write_text("file_name\tcdn_link\n" + "".join(rows))
        return path

    def fetch(
        self,
        count: int = 1,
        *,
        policy: Policy = QUICK,
        checksums: dict[str, Checksum] | None = None,
    ) -> Outcome:
        self.out.mkdir(exist_ok=True)
        worker = Downloader(self.out, policy=policy, parallel=2, checksums=checksums or {})
        return worker.fetch(worker.plan(self.links(count)))

    def command(self, *arguments: str, count: int = 4) -> int:
        return download.main([str(self.list_file(count)), "--out", str(self.out), *arguments])

    def ranges(self) -> list[str | None]:
        """Of the requests so far, without the questions for the length."""
        return [seen.range for seen in self.server.seen if seen.range != "bytes=0-0"]

    def is_equal(self, *numbers: int) -> bool:
        names = [f"sa_{k:06d}.tar" for k in numbers]
        return all((self.out / n).read_bytes() == (self.source / n).read_bytes() for n in names)

    def files(self) -> set[str]:
        return {path.name for path in self.out.iterdir()} - {"downloaded.tsv", ".download.lock"}


def write_tar(path: Path, seed: int) -> None:
    """A tar of SIZE bytes."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for k, suffix in enumerate(("jpg", "json")):
            info = tarfile.TarInfo(f"sa_{seed}.{suffix}")
            data = rng.bytes(100_000 + k)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with path.open("ab") as file:
        file.write(bytes(SIZE - path.stat().st_size))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    source = tmp_path / "source"
    source.mkdir()
    for k in range(4):
        write_tar(source / f"sa_{k:06d}.tar", k)
    with HostileServer(source) as server:
        yield Place(server, source, tmp_path / "out")


FIRST = "sa_000000.tar"


def _told(value: object) -> str:
    """What a behaviour does, without what it does not."""
    if not isinstance(value, Behaviour):
        return ""
    given, usual = asdict(value), asdict(Behaviour())
    return " ".join(f"{k}={v}" for k, v in given.items() if v != usual[k]) or "nothing"


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(cut_after=50_000),
        Behaviour(cut_after=50_000, no_etag=True),
        Behaviour(cut_after=0, times=2),
        Behaviour(stall_after=0, times=1),
        Behaviour(stall_after=120_000, times=2),
        Behaviour(status=500, times=3),
        Behaviour(status=503, retry_after=1, times=2),
        Behaviour(status=429, every=2),
        Behaviour(ignore_range=True),
        Behaviour(ignore_range=True, cut_after=50_000, every=2),
        Behaviour(ignore_range=True, no_length=True),
        Behaviour(ignore_range=True, no_length=True, cut_after=50_000, every=2),
        Behaviour(ignore_range=True, chunked=True),
        Behaviour(ignore_range=True, chunked=True, cut_after=50_000, every=2),
        Behaviour(no_length=True),
        Behaviour(no_length=True, cut_after=50_000, every=3),
        Behaviour(length_lie=100, every=2),
        Behaviour(length_lie=-100, every=2),
        Behaviour(range_lie=512, every=2),
        Behaviour(total_lie=512, times=1),
        Behaviour(refuse_head=True),
    ],
    ids=_told,
)
def test_the_file_arrives_whole_in_spite_of(place: Place, behaviour: Behaviour) -> None:
    place.server.behave(FIRST, behaviour)
    outcome = place.fetch()
    assert outcome == Outcome(complete=[Arrival(file_name=FIRST, size=SIZE)])
    assert place.is_equal(0)
    assert place.files() == {FIRST}


def test_a_cut_file_is_continued_and_not_begun_anew(place: Place) -> None:
    place.server.behave(FIRST, Behaviour(cut_after=60_000))
    place.fetch()
    assert place.ranges() == [None, *(f"bytes={60_000 * k}-" for k in (1, 2, 3))]
    tags = {seen.headers.get("If-Range") for seen in place.server.seen[2:]}
    assert tags == {f'"{(place.source / FIRST).stat().st_mtime_ns:x}"'}


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (Behaviour(status=401), "HTTP 401 Unauthorized: the link has expired"),
        (Behaviour(status=403), "HTTP 403 Forbidden: the link has expired"),
        (Behaviour(status=404), "HTTP 404 Not Found: no such file"),
        (Behaviour(status=410), "HTTP 410 Gone: no such file"),
        (Behaviour(status=500), "HTTP 500"),
        (Behaviour(status=400), "HTTP 400"),
        (Behaviour(status=200), "a web page instead of the file"),
        (Behaviour(redirect="/sa_000000.tar"), "the link leads nowhere"),
        (Behaviour(redirect="gopher://x"), "the link leads nowhere"),
        (Behaviour(stall_after=0), r"no answer"),
        (Behaviour(cut_after=0), "cut after 0 of"),
        (Behaviour(stall_after=100), "stalled: no byte for 0.3 s"),
        (Behaviour(bytes_per_second=100), r"stalled: \d+ bytes/s"),
        (Behaviour(length_lie=-100), "the server contradicts itself: 206,848 bytes"),
        (Behaviour(total_lie=512), "the server contradicts itself: 207,360 bytes"),
        (Behaviour(range_lie=512), "got another part"),
        (Behaviour(ignore_range=True, cut_after=50_000), "cut after 50,000 of 206,848"),
        (
            Behaviour(ignore_range=True, no_length=True, cut_after=50_000),
            "the server tells no length, and cut at byte 50000",
        ),
    ],
    ids=_told,
)
def test_what_cannot_be_had_is_told(place: Place, behaviour: Behaviour, told: str) -> None:
    place.server.behave(FIRST, behaviour)
    (link, error), *others = place.fetch(2).failed
    assert (link, others) == (place.links()[0], [])
    assert re.search(told, str(error))
    assert "secret" not in str(error)
    assert place.is_equal(1)
    assert FIRST not in place.files()


def test_a_link_that_expired_or_is_dead_is_asked_for_once(place: Place) -> None:
    place.server.behave("sa_000000.tar", Behaviour(status=403))
    place.server.behave("sa_000001.tar", Behaviour(status=404))
    place.fetch(2)
    assert len(place.server.seen) == 2


def test_progress_is_no_failure_however_often_the_server_cuts(place: Place) -> None:
    place.server.behave(FIRST, Behaviour(cut_after=9000))
    assert not place.fetch(policy=replace(QUICK, retries=1)).failed
    assert len(place.ranges()) == SIZE // 9000 + 1
    assert place.is_equal(0)


def test_a_server_that_is_gone(place: Place) -> None:
    place.server.stop()
    ((_, error),) = place.fetch().failed
    assert str(error) == "no answer (Connection refused)"


def test_a_file_that_changed_since_is_begun_anew(place: Place) -> None:
    place.server.behave(FIRST, Behaviour(cut_after=60_000))
    place.fetch(policy=replace(QUICK, retries=0))
    assert place.files() == {FIRST + ".part", FIRST + ".part.json"}
    write_tar(place.source / FIRST, 77)
    place.server.behave(FIRST, Behaviour())
    place.server.forget()
    place.fetch()
    assert place.ranges() == [None]
    assert place.is_equal(0)


@pytest.mark.parametrize("same", [True, False])
def test_a_part_without_its_note_is_not_trusted(place: Place, same: bool) -> None:
    place.server.behave(FIRST, Behaviour(cut_after=60_000))
    place.fetch(policy=replace(QUICK, retries=0))
    part, note = place.out / (FIRST + ".part"), place.out / (FIRST + ".part.json")
    assert part.stat().st_size == 60_000
    if not same:
        part.write_bytes(b"?" * 60_000)
        note.unlink()
    place.server.behave(FIRST, Behaviour())
    place.server.forget()
    place.fetch()
    assert place.ranges() == ["bytes=60000-" if same else None]
    assert place.is_equal(0)


def test_complete_files_are_not_asked_for_again(place: Place) -> None:
    place.fetch(4)
    place.server.forget()
    assert len(place.fetch(4).complete) == 4
    assert place.server.seen == []


def test_files_of_another_program_are_compared_by_length(place: Place) -> None:
    place.out.mkdir()
    whole = (place.source / FIRST).read_bytes()
    (place.out / "sa_000000.tar").write_bytes(whole)
    (place.out / "sa_000001.tar").write_bytes(whole[:1000])
    assert not place.fetch(2).failed
    assert [seen.path for seen in place.server.seen if seen.range is None] == ["sa_000001.tar"]
    assert place.is_equal(0, 1)


def _digest(path: Path) -> Checksum:
    return Checksum("md5", hashlib.md5(path.read_bytes()).hexdigest())


def test_a_flipped_byte_is_found_by_the_checksum_and_fetched_anew(place: Place) -> None:
    sums = {FIRST: _digest(place.source / FIRST)}
    place.server.behave(FIRST, Behaviour(flip_byte=0, times=2))  # the question is the first
    assert not place.fetch(checksums=sums).failed
    assert place.ranges() == [None, None]
    assert place.is_equal(0)


def test_a_file_that_stays_wrong_fails_and_leaves_nothing(place: Place) -> None:
    place.server.behave(FIRST, Behaviour(flip_byte=0))
    ((_, error),) = place.fetch(checksums={FIRST: _digest(place.source / FIRST)}).failed
    assert re.fullmatch(r"its md5 is [0-9a-f]{32}, not [0-9a-f]{32}", str(error))
    assert place.ranges() == [None, None]
    assert place.files() == set()


def test_checksums_that_come_later_check_what_is_there_once(place: Place) -> None:
    place.fetch(2)
    path = place.out / FIRST
    path.write_bytes(b"?" + path.read_bytes()[1:])
    sums = {link.file_name: _digest(place.source / link.file_name) for link in place.links()}
    place.server.forget()
    place.fetch(2, checksums=sums)
    assert {seen.path for seen in place.server.seen} == {FIRST}
    assert place.is_equal(0, 1)
    worker = Downloader(place.out, policy=QUICK, parallel=1, checksums=sums)
    assert {item.state for item in worker.plan(place.links(2)).items} == {State.COMPLETE}


def test_a_tar_that_is_damaged_on_the_server_is_fetched_twice_kept_and_told(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place.source / FIRST
    path.write_bytes(path.read_bytes()[:150_000])
    for _ in range(2):
        assert place.command("--limit", "1") == 0
        shown = capsys.readouterr().out
        assert f"{FIRST}  cut at byte 150000, inside sa_0.json" in shown
    assert place.ranges() == [None, None]
    assert place.is_equal(0)


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
