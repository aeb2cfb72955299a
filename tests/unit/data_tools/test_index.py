"""`python -m data_tools.index`: new and changed shards only, damage reported, over HTTP too."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from http_server import Behaviour, HostileServer

from data_tools import index as tool
from data_tools.index import main
from sam_train.data.shards.index import open_index
from sam_train.data.shards.reader import open_shards
from sam_train.data.storage import http


def pack(path: Path, numbers: range, *, pad: int = 0) -> Path:
    with tarfile.open(path, "w") as tar:
        for n in numbers:
            for name in (f"sa_{n}.jpg", f"sa_{n}.json"):
                info = tarfile.TarInfo(name)
                info.size = 100 + pad
                tar.addfile(info, io.BytesIO(name.encode().ljust(info.size)))
    return path


def keys(folder: Path) -> list[str]:
    shards = open_shards(str(folder), option="data.train")
    assert all(part.index.path == folder / "sa_index.bin" for part in shards._parts)
    assert [shards.read(k).jpeg.split()[0] for k in range(len(shards))] == [
        f"{shards.key(k).split('/')[1]}.jpg".encode() for k in range(len(shards))
    ]
    return [shards.key(k) for k in range(len(shards))]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_only_new_and_changed_shards_are_walked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    def run(*more: str) -> str:
        assert main([str(tmp_path), "--workers", workers, *more]) == 0
        return capsys.readouterr().out

    for k in range(3):
        pack(tmp_path / f"sa_{k}.tar", range(10 * k, 10 * k + 3))
    assert "3 shards to walk, 0 unchanged; dry run" in run("--dry-run")
    assert not (tmp_path / "sa_index.bin").exists()
    assert "3 shards, 9 samples; 3 shards walked, 0 unchanged" in run()
    assert "up to date: 3 shards, 9 samples" in run()
    pack(tmp_path / "sa_1.tar", range(15, 17), pad=900)
    pack(tmp_path / "sa_3.tar", range(90, 91))
    (tmp_path / "sa_2.tar").unlink()
    out = run()
    assert "1 shard of the old index left out" in out
    assert "3 shards, 6 samples; 2 shards walked, 1 unchanged" in out
    assert keys(tmp_path) == [
        *(f"sa_0.tar/sa_{n}" for n in (0, 1, 2)),
        *("sa_1.tar/sa_15", "sa_1.tar/sa_16", "sa_3.tar/sa_90"),
    ]


def test_damage_is_reported_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(tmp_path / "sa_0.tar", range(4))
    cut = pack(tmp_path / "sa_1.tar", range(10, 14))
    cut.write_bytes(cut.read_bytes()[: 5 * 1024])
    (tmp_path / "sa_2.tar").write_bytes(b"no tar" * 1000)
    assert main([str(tmp_path), "--workers", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sa_1.tar: cut at byte 5120")
    assert lines[1] == "sa_2.tar: damaged header at byte 0; no complete sample"
    assert "3 shards, 6 samples" in lines[2]
    assert len(keys(tmp_path)) == 6


def test_a_damaged_index_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pack(tmp_path / "sa_0.tar", range(4))
    (tmp_path / "sa_index.bin").write_bytes(b"SAINDEX\n" + bytes(100))
    assert main([str(tmp_path), "--workers", "0"]) == 0
    assert "made anew" in caplog.text
    assert len(keys(tmp_path)) == 4


def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(4):
        pack(tmp_path / f"sa_{k}.tar", range(10 * k, 10 * k + 3))
    walk = tool.index_shard

    def stopped(path: str) -> object:
        if path.endswith("sa_2.tar"):
            raise KeyboardInterrupt
        return walk(path)

    monkeypatch.setattr(tool, "index_shard", stopped)
    assert main([str(tmp_path), "--workers", "0"]) == 130
    assert len(open_index(tmp_path / "sa_index.bin").rows) == 2
    monkeypatch.setattr(tool, "index_shard", walk)
    assert main([str(tmp_path), "--workers", "0"]) == 0
    assert "4 shards, 12 samples; 2 shards walked, 2 unchanged" in capsys.readouterr().out


def test_shards_on_a_server_are_indexed_and_the_unreachable_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http, "PATIENCE", http.Patience(attempts=3, backoff=0.01, grudge=0))
    for k in range(4):
        pack(tmp_path / f"sa_{k}.tar", range(100 * k, 100 * k + 40), pad=9000)
    out = tmp_path / "web.bin"
    with HostileServer(tmp_path) as server:
        server.behave("sa_1.tar", Behaviour(status=403))
        server.behave("sa_2.tar", Behaviour(cut_after=700, times=2))
        pattern = server.url("sa_{0..3}.tar")
        assert main([pattern, "--workers", "0"]) == 2
        assert "--out FILE" in capsys.readouterr().err
        assert main([pattern, "--out", str(out), "--workers", "0"]) == 1
        text = capsys.readouterr().out
        assert f"not in the index: {server.url('sa_1.tar')}" in text
        assert "the server refuses it (403)" in text
        assert "3 shards, 120 samples" in text
        walked = [seen for seen in server.seen if seen.path == "sa_0.tar"]
        assert len(walked) < 20  # of 80 headers
        good = [server.url(f"sa_{k}.tar") for k in (0, 2, 3)]
        server.forget()
        shards = open_shards(good, option="data.train", index=out)
        assert not server.seen
        assert shards.read(45).json.startswith(b"sa_205.json")
        assert len(server.seen) == 1


def test_nothing_readable_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.tar")]) == 2
    assert "does not exist" in capsys.readouterr().err
