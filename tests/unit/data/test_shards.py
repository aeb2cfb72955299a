"""Tars read in place: every dialect, nothing unsafe, damage named, local and over HTTP."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_train.data.shards import index_shard, open_shards, resolve
from sam_train.data.tar import list_members
from sam_train.errors import UserError


def listed(data: bytes) -> Any:
    return list_members(lambda offset, length: data[offset : offset + length], size=len(data))


def packed(format: int, names: list[str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for k, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 300 * k
            tar.addfile(info, io.BytesIO(bytes([k]) * info.size))
    return out.getvalue()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_dialect_lists_what_tarfile_lists(format: int) -> None:
    names = ["sa_1.jpg", "./sa_1.json", "a/" * 45 + "b.jpg", "x" * 60 + "/" + "y" * 60 + ".json"]
    if format != tarfile.USTAR_FORMAT:
        names += ["z" * 300 + ".jpg", "ü" * 90 + ".json"]
    data = packed(format, names)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar]
    listing = listed(data)
    assert [(m.name, m.offset, m.size) for m in listing.members] == expected
    assert listing.damage is None


def test_links_folders_and_names_that_leave_the_tar_are_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in [
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("folder", tarfile.DIRTYPE),
            ("fifo.json", tarfile.FIFOTYPE),
            ("/etc/passwd.jpg", tarfile.REGTYPE),
            ("a/../../b.jpg", tarfile.REGTYPE),
            ("good..jpg", tarfile.REGTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            tar.addfile(info)
    assert [m.name for m in listed(out.getvalue()).members] == ["good..jpg"]


def test_every_cut_is_noticed_and_keeps_the_whole_members_before_it() -> None:
    data = packed(tarfile.GNU_FORMAT, ["a.jpg", "b.jpg", "c.jpg"])
    whole = listed(data).members
    end = whole[-1].offset + 1024
    for cut in range(0, end, 100):
        listing = listed(data[:cut])
        assert listing.damage
        assert listing.members == [m for m in whole if m.offset + m.size <= cut]


@given(st.binary(max_size=1200), st.integers(0, 3000))
@settings(max_examples=300, deadline=None)
def test_overwritten_bytes_never_lead_outside_the_file(noise: bytes, at: int) -> None:
    data = bytearray(packed(tarfile.PAX_FORMAT, ["a.jpg", "ü.json", "c.jpg"]))
    data[at : at + len(noise)] = noise
    for member in listed(bytes(data)).members:
        assert 0 <= member.offset <= member.offset + member.size <= len(data)


def test_pairs_are_matched_by_name_and_leftovers_counted(
    shard: Callable[..., Path], make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard(3, ("lonely.jpg", b"x"), ("a.json", b"{}"), ("b.json", b"{}"), ("readme", b""))
    shards = open_shards(str(path), option="data.train")
    assert len(shards) == 3
    assert [shards.rows[0].without_json, shards.rows[0].without_jpeg] == [1, 2]
    assert "left out 1 photos without a JSON (first: lonely.jpg)" in caplog.text
    assert "left out 2 JSONs without a photo (first: a.json)" in caplog.text
    assert shards.key(2) == "sa_000000.tar/sa_2"
    entry = shards.read(2)
    assert [entry.jpeg, entry.json] == [data for _, data in make.sample_files(2)]


def test_a_cut_shard_keeps_its_whole_samples(
    shard: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = shard(4)
    whole = index_shard(str(path))
    path.write_bytes(path.read_bytes()[: whole.jsons[2, 0] + 1])
    shards = open_shards(str(path), option="data.train")
    assert len(shards) == 2
    assert "sa_000000.tar is damaged" in caplog.text
    assert "inside sa_2.json" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no pair"),
        (b"this is no tar" * 100, "damaged header at byte 0"),
        (bytes(10240), "holds no pair"),
    ],
)
def test_an_unusable_shard_is_one_line_with_its_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "sa_7.tar"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_shards(str(path), option="data.train")
    assert "sa_7.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_patterns_folders_and_lists_give_sorted_shards_once(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "sa_{1}.tar", "c.txt"):
        (tmp_path / name).touch()
    both = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    literal = str(tmp_path / "sa_{1}.tar")

    def get(*patterns: str) -> list[str]:
        return resolve([str(tmp_path / p) for p in patterns], option="data.train")

    assert get("[ab].tar") == get("{b,a}.tar") == get("b.tar", "a.tar", "a.tar") == both
    assert resolve(str(tmp_path), option="data.train") == [*both, literal]
    assert get("sa_{1}.tar") == [literal]
    urls = resolve("https://host/sa_{000..002}.tar", option="data.train")
    assert urls == [f"https://host/sa_00{k}.tar" for k in range(3)]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "data.train is not set"),
        ("no.tar", "no.tar does not exist"),
        ("*.tgz", r"\*.tgz matches nothing"),
        ("x{1..3}.tar", "x1.tar does not exist"),
        ("x{1..3.tar", "do not balance"),
        ("empty", "empty holds no .tar"),
    ],
)
def test_what_matches_nothing_is_named(tmp_path: Path, pattern: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        resolve(str(tmp_path / pattern) if pattern else "", option="data.train")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The folder over HTTP, with ranges."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = tmp_path / self.path.lstrip("/")
            if not path.exists():
                self.send_error(404)
                return
            data, total = path.read_bytes(), path.stat().st_size
            asked = self.headers.get("Range")
            self.send_response(206 if asked else 200)
            if asked:
                first, _, last = asked.removeprefix("bytes=").partition("-")
                stop = min(int(last or total - 1), total - 1)
                data = data[int(first) : stop + 1]
                self.send_header("Content-Range", f"bytes {first}-{stop}/{total}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_url_is_read_like_a_file(shard: Callable[..., Path], server: str) -> None:
    path = shard(3)
    local = open_shards(str(path), option="data.train")
    remote = open_shards(f"{server}/{path.name}", option="data.train")
    assert [remote.read(k) for k in range(3)] == [local.read(k) for k in range(3)]
    with pytest.raises(UserError, match=r"gone\.tar does not exist"):
        open_shards(f"{server}/gone.tar", option="data.train")
