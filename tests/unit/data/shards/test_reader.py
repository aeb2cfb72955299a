"""Tars read in place: every dialect, nothing unsafe, damage named, local and over HTTP."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import HostileServer
from hypothesis import given, settings
from hypothesis import strategies as st

from sam_train.data.shards.reader import index_shard, open_shards, resolve
from sam_train.data.storage import http
from sam_train.data.storage.tar import list_members
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


def test_lists_name_paths_and_urls_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.tar", "sub/b.tar"):
        (tmp_path / name).touch()
    listed = tmp_path / "some shards.txt"
    listed.write_text(f"# two of them\nsub/*.tar\n\n {tmp_path}/a.tar \nhttps://host/c.tar?x=1\n")
    expected = ["https://host/c.tar?x=1", f"{tmp_path}/a.tar", f"{tmp_path}/sub/b.tar"]
    assert resolve(str(listed), option="data.train") == sorted(expected)
    for text, message in (
        ("# nothing", "is empty"),
        ("c.tar", r"c\.tar does not exist"),
        (listed.name, "names another list"),
        ("\x00", "does not exist|null byte"),
    ):
        listed.write_text(text)
        with pytest.raises(UserError, match=message):
            resolve(str(listed), option="data.train")
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        resolve(str(listed), option="data.train")


def test_pipes_are_for_streams_and_web_folders_cannot_be_listed() -> None:
    command = "pipe:curl -s https://host/sa_{0..1}.tar"
    piped = resolve(command, option="data.train", pipes=True)
    assert piped == [f"pipe:curl -s https://host/sa_{k}.tar" for k in range(2)]
    with pytest.raises(UserError, match=r"set data\.mode=stream"):
        resolve(command, option="data.train")
    with pytest.raises(UserError, match="does not list its files"):
        resolve("https://host/sa1b/", option="data.train")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostileServer]:
    """The folder over HTTP, with ranges."""
    monkeypatch.setattr(http, "PATIENCE", http.Patience(attempts=2, backoff=0.01, grudge=0))
    with HostileServer(tmp_path) as server:
        yield server


def test_a_url_is_read_like_a_file(shard: Callable[..., Path], server: HostileServer) -> None:
    path = shard(3)
    local = open_shards(str(path), option="data.train")
    remote = open_shards(server.url(path.name), option="data.train")
    server.forget()
    assert [remote.read(k) for k in range(3)] == [local.read(k) for k in range(3)]
    assert len(server.seen) == 3  # photo and JSON together
    with pytest.raises(UserError, match=r"gone\.tar does not exist"):
        open_shards(server.url("gone.tar"), option="data.train")


def test_files_that_are_no_neighbours_are_read_all_the_same(
    tmp_path: Path, make: Any, server: HostileServer
) -> None:
    files = [f for n in range(3) for f in make.sample_files(n)]
    apart = [*files[::2], ("filler.bin", bytes(1 << 17)), *files[1::2]]
    path = make.pack(tmp_path / "apart.tar", apart)
    for name in (str(path), server.url(path.name)):
        shards = open_shards(name, option="data.train")
        entries = [shards.read(k) for k in range(3)]
        assert [e.jpeg for e in entries] == [data for _, data in files[::2]]
        assert [e.json for e in entries] == [data for _, data in files[1::2]]


def test_what_happens_to_a_shard_in_use_is_one_line(
    tmp_path: Path, shard: Callable[..., Path], make: Any, server: HostileServer
) -> None:
    path = shard(3)
    whole = path.read_bytes()
    several = [
        open_shards(name, option="data.train") for name in (str(path), server.url(path.name))
    ]

    def problems() -> list[str]:
        lines = []
        for shards in several:
            with pytest.raises(OSError, match=path.name) as caught:
                shards.read(1)
            lines.append(str(caught.value))
            assert "\n" not in lines[-1]
        return lines

    path.write_bytes(whole[:-1])
    assert all("changed since it was indexed" in line for line in problems())
    other = make.pack(tmp_path / "other.tar", make.sample_files(8) + make.sample_files(9))
    path.write_bytes(other.read_bytes().ljust(len(whole), b"\0")[: len(whole)])
    assert all("changed since it was indexed" in line for line in problems())
    path.unlink()
    problems()
    path.write_bytes(whole)
    assert several[0].read(1) == several[1].read(1)


def test_a_file_of_absurd_size_is_refused_before_it_is_read(tmp_path: Path, make: Any) -> None:
    path = make.pack(tmp_path / "a.tar", make.sample_files(1))
    with path.open("r+b") as file, tarfile.open(path) as tar:
        file.truncate(tar.getmembers()[-1].offset)  # before its JSON
        info = tarfile.TarInfo("sa_1.json")
        info.size = (1 << 32) + 5
        file.seek(0, 2)
        file.write(info.tobuf())
        file.truncate(file.tell() + info.size + 2048)  # holes: no room on the disk
    shards = open_shards(str(path), option="data.train")
    with pytest.raises(OSError, match="more than 256 MiB"):
        shards.read(0)


def test_excluded_samples_are_none(
    tmp_path: Path, shard: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    for k in range(3):
        shard(4, name=f"sa_{k}.tar", first=4 * k)
    everything = open_shards(str(tmp_path), option="data.train")
    text, report = tmp_path / "out.txt", tmp_path / "report.json"
    text.write_text("# bad ones\nsa_1.tar/sa_4\nsa_1.tar/./sa_5  # blurred\nsa_11\nsa_2.tar/sa_0\n")
    report.write_text('{"exclude": ["sa_1.tar/sa_7", "sa_1.tar/sa_6", "none"], "other": 1}')
    out = {4, 5, 11, 6, 7}
    with caplog.at_level("INFO"):
        shards = open_shards(str(tmp_path), option="data.val", exclude=[str(text), str(report)])
    left = [k for k in range(12) if k not in out]
    assert shards.excluded.tolist() == sorted(out)
    assert [shards.key(k) for k in range(len(shards))] == [everything.key(k) for k in left]
    assert [shards.read(k) for k in range(len(shards))] == [everything.read(k) for k in left]
    assert shards.first.tolist() == [0, 4, 4, 7]
    with pytest.raises(IndexError):
        shards.read(7)
    assert "data.val: 5 samples excluded" in caplog.text


def test_only_included_samples_are_some(tmp_path: Path, shard: Callable[..., Path]) -> None:
    for k in range(3):
        shard(4, name=f"sa_{k}.tar", first=4 * k)
    everything = open_shards(str(tmp_path), option="data.train")
    only, bad = tmp_path / "subset_0.5.txt", tmp_path / "bad.txt"
    only.write_text("sa_0\nsa_3\nsa_2.tar/sa_9\nsa_2.tar/sa_10\nsa_1.tar/sa_3\nsa_99\n")
    bad.write_text("sa_3\nsa_6\n")
    for exclude, left in (("", [0, 3, 9, 10]), (str(bad), [0, 9, 10])):
        shards = open_shards(str(tmp_path), option="data.train", include=str(only), exclude=exclude)
        assert [shards.key(k) for k in range(len(shards))] == [everything.key(k) for k in left]
        assert [shards.read(k) for k in range(len(shards))] == [everything.read(k) for k in left]
        assert shards.excluded.tolist() == [k for k in range(12) if k not in left]
    only.write_text("# none\n")
    with pytest.raises(UserError, match="names no sample"):
        open_shards(str(tmp_path), option="data.train", include=str(only))
    only.write_text("sa_99\n")
    with pytest.raises(UserError, match=r"data.include and data.exclude leave out every sample"):
        open_shards(str(tmp_path), option="data.train", include=str(only))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", None, "does not exist"),
        ("a.txt", b"\xff", "cannot be read"),
        ("a.json", b"[1]", "cannot be read"),
        ("a.txt", b"sa_0\nsa_1", "leaves out every sample"),
    ],
)
def test_an_exclusion_list_that_cannot_be_meant_is_named(
    tmp_path: Path, shard: Callable[..., Path], name: str, content: bytes | None, message: str
) -> None:
    path = shard(2)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_shards(str(path), option="data.train", exclude=str(tmp_path / name))
