"""Ranged reads from disks, hostile web servers and an S3 server."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from http_server import Behaviour, HostileServer
from hypothesis import given
from hypothesis import strategies as st

from sam_train.data.storage import http
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import MERGE_GAP, Span, cut, merged, short_name
from sam_train.errors import UserError

DATA = bytes(range(256)) * 1000
NAME = "sa_000000.tar"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = http.Patience(attempts=3, backoff=0.01, timeout=0.3, grudge=0.0)
    monkeypatch.setattr(http, "PATIENCE", patience)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HostileServer]:
    (tmp_path / NAME).write_bytes(DATA)
    with HostileServer(tmp_path) as server:
        yield server


spans = st.lists(
    st.builds(Span, st.integers(0, 10 * MERGE_GAP), st.integers(0, 3 * MERGE_GAP)), min_size=1
)


@given(spans)
def test_merged_spans_cover_what_was_asked_and_lie_apart(asked: list[Span]) -> None:
    groups = merged(asked)
    for left, right in pairwise(groups):
        assert right.offset - left.end > MERGE_GAP
    covered = {at for g in groups for at in (g.offset, g.end)}
    assert covered <= {at for s in asked for at in (s.offset, s.end)}
    data = bytes(max(s.end for s in asked))
    parts = cut(asked, groups, [data[g.offset : g.end] for g in groups])
    assert [len(part) for part in parts] == [s.size for s in asked]


def test_local_and_remote_files_give_the_same_bytes(tmp_path: Path, server: HostileServer) -> None:
    asked = [Span(200_000, 300), Span(1, 255), Span(5, 0), Span(255_999, 1)]
    local, remote = open_source(str(tmp_path / NAME)), open_source(server.url(NAME))
    expected = [DATA[s.offset : s.end] for s in asked]
    for source in (local, remote):
        assert source.size() == len(DATA)
        assert source.read_many(asked, size=len(DATA)) == expected
        with source.opened(len(DATA)) as read_at:
            assert [read_at(s.offset, s.size) for s in asked] == expected
            assert read_at(len(DATA) - 2, 512) == DATA[-2:]
        with pytest.raises(OSError, match="shorter than it was"):
            source.read(len(DATA) - 1, 2)
        with pytest.raises(OSError, match="changed since it was indexed"):
            source.read_many(asked, size=len(DATA) - 1)


def test_a_change_shows_in_the_stamp(tmp_path: Path, server: HostileServer) -> None:
    sources = [open_source(str(tmp_path / NAME)), open_source(server.url(NAME))]
    before = [source.facts() for source in sources]
    assert before == [source.facts() for source in sources]
    os.utime(tmp_path / NAME, ns=(1, 1))
    after = [source.facts() for source in sources]
    assert all(a.stamp != b.stamp and a.size == b.size for a, b in zip(before, after, strict=True))


def test_neighbours_are_one_request_on_one_connection(server: HostileServer) -> None:
    source = open_source(server.url(NAME))
    for _ in range(3):
        assert source.read_many([Span(1536, 900), Span(512, 500)])[1] == DATA[512:1012]
    assert [seen.range for seen in server.seen] == ["bytes=512-2435"] * 3
    assert len({seen.connection for seen in server.seen}) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        Behaviour(cut_after=100),
        Behaviour(cut_after=0),
        Behaviour(stall_after=0),
        Behaviour(stall_after=100),
        Behaviour(bytes_per_second=1000),
        Behaviour(length_lie=7),
        Behaviour(length_lie=-7),
        Behaviour(status=500),
        Behaviour(status=429, retry_after=1),
    ],
    ids=["cut", "cut-at-once", "silent", "stall", "drip", "long", "short", "500", "429"],
)
def test_passing_trouble_is_waited_out_and_lasting_trouble_is_one_line(
    server: HostileServer, trouble: Behaviour
) -> None:
    source = open_source(server.url(NAME))
    trouble.times = 1
    server.behave(NAME, trouble)
    assert source.read(1000, 2000) == DATA[1000:3000]
    assert [seen.range for seen in server.seen] == ["bytes=1000-2999"] * 2
    trouble.times = None
    with pytest.raises(OSError, match=NAME) as caught:
        source.read(1000, 2000)
    assert "\n" not in str(caught.value)
    assert "(3 tries)" in str(caught.value)
    assert f"answers {trouble.status}" in str(caught.value) or trouble.status is None
    trouble.times = 0
    assert source.read(3000, 100) == DATA[3000:3100]


@pytest.mark.parametrize(
    ("trouble", "kind", "message"),
    [
        (Behaviour(status=404), FileNotFoundError, "does not exist"),
        (Behaviour(status=403), PermissionError, "may have expired"),
        (Behaviour(status=400), OSError, "answers 400"),
        (Behaviour(ignore_range=True), OSError, "does not know ranges"),
        (Behaviour(range_lie=3), OSError, "another range"),
        (Behaviour(total_lie=5), OSError, "changed since it was indexed"),
    ],
)
def test_what_waiting_does_not_mend_is_asked_once(
    server: HostileServer, trouble: Behaviour, kind: type[OSError], message: str
) -> None:
    server.behave(NAME, trouble)
    with pytest.raises(kind, match=message):
        open_source(server.url(NAME) + "?signature=secret").read_many(
            [Span(10, 10)], size=len(DATA)
        )
    assert len(server.seen) == 1


def test_a_link_that_answers_no_head_and_moves_is_read(server: HostileServer) -> None:
    server.behave("link", Behaviour(redirect=f"/{NAME}"))
    server.behave(NAME, Behaviour(refuse_head=True))
    source = open_source(server.url("link"))
    assert source.size() == len(DATA)
    assert source.read(5, 5) == DATA[5:10]


def test_a_body_without_a_length_is_read_to_its_part(server: HostileServer) -> None:
    server.behave(NAME, Behaviour(no_length=True))
    source = open_source(server.url(NAME))
    assert [source.read(at, 700) for at in (0, 900)] == [DATA[:700], DATA[900:1600]]


def test_a_server_that_is_gone_is_not_waited_for_each_time(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(http, "PATIENCE", http.Patience(timeout=0.3, grudge=60))
    monkeypatch.setattr(http, "_failed_at", {})
    source = open_source(server.url(NAME))
    assert source.read(0, 9) == DATA[:9]
    server.stop()
    for _ in range(4):
        with pytest.raises(OSError, match=NAME):
            source.read(0, 9)
    assert len(waits) == http.PATIENCE.attempts - 1


def test_names_in_messages_keep_secrets_to_themselves() -> None:
    assert short_name("https://u:p@host/a/sa_1.tar?X-Signature=abc") == "sa_1.tar"
    assert short_name("s3://bucket/sa_1.tar") == short_name("/a b/sa_1.tar") == "sa_1.tar"


def test_a_pipe_has_no_parts() -> None:
    with pytest.raises(UserError, match=r"data\.mode=stream"):
        open_source("pipe:cat sa_1.tar")


@pytest.mark.parametrize(("url", "package"), [("s3://b/a.tar", "s3fs"), ("gs://b/a.tar", "gcsfs")])
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    loaded: Any = sys.modules["fsspec.registry"]
    monkeypatch.delitem(loaded._registry, url[:2], raising=False)
    with pytest.raises(UserError, match=f"pip install {package}"):
        open_source(url).size()


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(UserError, match="Protocol not known: qq"):
        open_source("qq://b/a.tar").size()


def _child(queue: Any, url: str) -> None:
    queue.put(open_source(url).read(1000, 20))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_has_its_own_connections(server: HostileServer, method: Any) -> None:
    source = open_source(server.url(NAME))
    source.read(0, 5)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue, server.url(NAME)))
    child.start()
    assert queue.get(timeout=60) == DATA[1000:1020]
    child.join()
    assert source.read(0, 5) == DATA[:5]
    first, other, last = (seen.connection for seen in server.seen)
    assert first == last != other
