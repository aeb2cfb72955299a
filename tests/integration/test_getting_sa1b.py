"""The way of docs/sa1b.md from a list of links to `fit`, on a server in trouble."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from http_server import Behaviour, HostileServer

from data_tools import download, index, verify
from data_tools.sample import SampleConfig, write_sample
from sam_train.data.storage import http
from sam_train.train.fit import fit
from sam_train.train.report.metrics_file import read_columns

SHARDS = [f"sa_{k:06d}.tar" for k in range(3)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_sample(SampleConfig(scenes=9, height=64, width=64, shard_size=3), folder, workers=0)
    return folder


@pytest.fixture
def server(source: Path) -> Iterator[HostileServer]:
    with HostileServer(source) as running:
        yield running


@pytest.fixture
def settings(tiny: Any, source: Path, tmp_path: Path) -> list[str]:
    """Two steps, which measure nothing but themselves."""
    return [
        *tiny.settings,
        "callbacks.validation.images=1",
        "callbacks.validation.film_rows=1",
        "callbacks.validation.clicks=[1]",
        f"data.val={source / SHARDS[0]}",
        f"run_dir={tmp_path / 'run'}",
    ]


def _losses(settings: list[str], run_dir: Path, train: str) -> list[float]:
    fit([*settings, f"data.train={train}", f"run_dir={run_dir}"])
    losses = read_columns(run_dir / "metrics.csv")["loss"][1:]
    assert len(losses) == 2
    assert torch.tensor(losses).isfinite().all()
    return losses


def test_from_the_list_of_links_to_fit(
    server: HostileServer,
    source: Path,
    settings: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    links, out = tmp_path / "links.tsv", tmp_path / "sa1b"
    rows = [f"{name}\t{server.url(name)}?signature=1\n" for name in SHARDS]
    links.write_text("file_name\tcdn_link\n" + "".join(rows))
    server.behave(SHARDS[0], Behaviour(cut_after=9000))
    server.behave(SHARDS[1], Behaviour(status=403))
    server.behave(SHARDS[2], Behaviour(status=500, times=1))
    assert download.main([str(links), "--out", str(out)]) == 1
    assert f"  {SHARDS[1]}  HTTP 403" in capsys.readouterr().out
    server.behave(SHARDS[1], Behaviour())  # as after a new list from the licence page
    assert download.main([str(links), "--out", str(out)]) == 0
    for name in SHARDS:
        assert (out / name).read_bytes() == (source / name).read_bytes()

    exclude = tmp_path / "exclude.txt"
    shards = str(out)
    assert verify.main([shards, "--exclude", str(exclude), "--workers", "0"]) == 0
    assert index.main([shards, "--workers", "0"]) == 0
    assert (out / "sa_index.bin").is_file()
    settings += [f"data.exclude={exclude}"]
    assert _losses(settings, tmp_path / "run", shards) == _losses(
        settings, tmp_path / "again", str(source)
    )


def test_training_from_a_server_that_cuts_and_fails_is_training_from_the_disk(
    server: HostileServer,
    source: Path,
    settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "PATIENCE", http.Patience(backoff=0.01, timeout=1))
    server.behave(SHARDS[0], Behaviour(cut_after=700, every=2))
    server.behave(SHARDS[1], Behaviour(status=500, every=2))
    server.behave(SHARDS[2], Behaviour(status=503, retry_after=0, every=2))
    remote = f"{server.address}/sa_{{000000..000002}}.tar"
    assert _losses(settings, tmp_path / "run", remote) == _losses(
        settings, tmp_path / "disk", str(source)
    )
    assert {seen.path for seen in server.seen if seen.went_wrong} == set(SHARDS)
    assert {seen.path for seen in server.seen if not seen.went_wrong} == set(SHARDS)
