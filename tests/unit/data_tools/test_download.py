"""Files from a real server that cuts, stalls and lies: whole, verified, or told why not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from download_place import FIRST, IMPATIENT, QUICK, SIZE, Place, made, write_tar
from http_server import Behaviour

from data_tools.download_checks import Checksum
from data_tools.download_fetch import Policy
from data_tools.download_part import Arrival
from data_tools.download_plan import State
from data_tools.download_run import Downloader, Outcome


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with made(tmp_path) as running:
        yield running


def _told(value: object) -> str:
    """What a behaviour does, without what it does not."""
    if not isinstance(value, Behaviour):
        return ""
    given, usual = asdict(value), asdict(Behaviour())
    return " ".join(f"{k}={v}" for k, v in given.items() if v != usual[k]) or "nothing"


def _patience(behaviour: Behaviour) -> Policy:
    stalls = behaviour.stall_after is not None or behaviour.bytes_per_second is not None
    return IMPATIENT if stalls else QUICK


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
    outcome = place.fetch(policy=_patience(behaviour))
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
    (link, error), *others = place.fetch(2, policy=_patience(behaviour)).failed
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
