"""Whatever is wrong with what `fit` is given, it answers in one line, or skips and says so."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from sam_train.cli import main
from sam_train.model import build_sam


@pytest.fixture
def shard(tmp_path: Path, tiny: Any) -> Path:
    """A shard of three good samples."""
    path: Path = tiny.pack(tmp_path / "sa_000000.tar", tiny.good(3))
    return path


def overrides(tiny: Any, tmp_path: Path, *more: str) -> list[str]:
    return ["fit", *tiny.settings, f"run_dir={tmp_path / 'run'}", *more]


def refused(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line of a run that must be refused."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said, complained = capfd.readouterr()
    assert caught.value.code == 2
    assert "Traceback" not in said + complained
    lines = [line for line in complained.splitlines() if line.strip()]
    assert len(lines) == 1, complained
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_missing_shard(tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "nowhere" / "sa_000000.tar"
    line = refused(capfd, overrides(tiny, tmp_path, f"data.train={where}"))
    assert f"{where} does not exist" in line
    assert "check the path" in line


def test_a_pattern_that_matches_nothing(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pattern = tmp_path / "sb_*.tar"
    line = refused(capfd, overrides(tiny, tmp_path, f"data.train='{pattern}'"))
    assert f"{pattern} matches nothing" in line


def test_one_missing_shard_of_a_brace_pattern(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pattern = f"{tmp_path}/sa_{{000000..000001}}.tar"
    line = refused(capfd, overrides(tiny, tmp_path, f"data.train='{pattern}'"))
    assert "sa_000001.tar does not exist" in line


def test_no_shards_at_all(tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "data.train is not set" in refused(capfd, overrides(tiny, tmp_path))


@pytest.mark.parametrize("content", ["nothing", "an empty tar", "no tar"])
def test_a_shard_without_samples(
    tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "bad.tar"
    if content == "an empty tar":
        tiny.pack(path, [])
    else:
        path.write_bytes(b"" if content == "nothing" else b"hello" * 1000)
    line = refused(capfd, overrides(tiny, tmp_path, f"data.train={path}"))
    assert str(path) in line
    assert "leave it out" in line


def test_a_folder_without_tars(
    tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    line = refused(capfd, overrides(tiny, tmp_path, f"data.train={folder}"))
    assert f"the folder {folder} holds no .tar" in line


def test_a_checkpoint_of_another_size(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vit_t.pth"
    torch.save(build_sam("vit_t", image_size=64).state_dict(), path)
    arguments = overrides(tiny, tmp_path, f"data.train={shard}", "model=vit_s", f"init_from={path}")
    line = refused(capfd, arguments)
    assert str(path) in line
    assert "vit_t" in line


@pytest.mark.parametrize("content", ["garbage", "nothing", "a pickle that would run code"])
def test_a_checkpoint_that_is_none(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "weights.pth"
    if content == "a pickle that would run code":
        torch.save({"image_encoder": subprocess.Popen}, path)
    else:
        path.write_bytes(b"" if content == "nothing" else os.urandom(5000))
    arguments = overrides(tiny, tmp_path, f"data.train={shard}", f"init_from={path}")
    assert str(path) in refused(capfd, arguments)


def test_a_checkpoint_that_is_missing(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nowhere.pth"
    for setting in ("init_from", "resume"):
        arguments = overrides(tiny, tmp_path, f"data.train={shard}", f"{setting}={path}")
        assert str(path) in refused(capfd, arguments)


@pytest.mark.parametrize("content", ["garbage", "nothing", "weights alone", "half"])
def test_a_checkpoint_that_cannot_be_continued(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    if content in {"weights alone", "half"}:
        torch.save(build_sam("vit_t", image_size=64).state_dict(), path)
    if content == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif content != "weights alone":
        path.write_bytes(b"" if content == "nothing" else b"garbage")
    line = refused(capfd, overrides(tiny, tmp_path, f"data.train={shard}"))
    assert str(path) in line
    assert "resume=never" in line


def test_a_run_of_another_model_is_not_continued(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = overrides(tiny, tmp_path, f"data.train={shard}")
    main([*arguments, "trainer.max_steps=1"])
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    capfd.readouterr()
    line = refused(capfd, [*arguments, "model.image_size=128"])
    assert str(path) in line
    assert "set model=" in line
    main(arguments)
    assert f"continuing {path}" in capfd.readouterr().out


@pytest.mark.parametrize("place", ["under a file", "a file"])
def test_a_run_dir_that_cannot_be_written(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    run_dir = shard / "run" if place == "under a file" else shard
    arguments = overrides(tiny, tmp_path, f"data.train={shard}")
    line = refused(capfd, [*arguments, f"run_dir={run_dir}"])
    assert f"run_dir={run_dir} cannot be written" in line


def test_a_disk_that_is_full_from_the_beginning(
    tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").symlink_to("/dev/full")
    line = refused(capfd, overrides(tiny, tmp_path, "data.train=x.tar"))
    assert f"run_dir={tmp_path / 'run'} cannot be written any more (No space left" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_where_one_was_asked_for(
    tiny: Any, tmp_path: Path, shard: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = overrides(tiny, tmp_path, f"data.train={shard}", "trainer.accelerator=gpu")
    line = refused(capfd, arguments)
    assert "trainer.accelerator=gpu, but torch sees no GPU" in line
    assert "trainer.accelerator=cpu" in line


def bad_samples(tiny: Any) -> list[tuple[str, bytes]]:
    """One for everything that can be wrong with a single sample."""
    masks = tiny.rectangles()
    full = masks.copy()
    full[:] = 1
    return [
        *(("filtered.jpg", tiny.photo(90)), ("filtered.json", tiny.record(full))),
        *(("corrupt.jpg", tiny.photo(91)[:400]), ("corrupt.json", tiny.record(masks))),
        *(("sizes.jpg", tiny.photo(92)), ("sizes.json", tiny.record(masks.swapaxes(1, 2)))),
        ("widow.json", tiny.record(masks)),
        ("orphan.jpg", tiny.photo(93)),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_single_bad_samples_are_skipped_and_said_at_the_end(
    tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    path = tiny.pack(tmp_path / "mixed.tar", [*bad_samples(tiny), *tiny.good(3)])
    main(
        overrides(
            tiny,
            tmp_path,
            f"data.train={path}",
            f"data.workers={workers}",
            "data.batch_size=6",
            "trainer.max_steps=3",
        )
    )
    said, complained = capfd.readouterr()
    assert "Traceback" not in said + complained
    last = next(line for line in reversed(said.splitlines()) if line.startswith("data.train:"))
    assert re.search(r"skipped \d+ of \d+ samples read", last)
    for problem in (
        "every mask is empty or too large (first: mixed.tar/filtered)",
        "corrupt or oversized JPEG (first: mixed.tar/corrupt)",
        "every mask's RLE is invalid (first: mixed.tar/sizes)",
        "left out 1 without a JSON (first: mixed.tar/orphan.jpg)",
        "left out 1 without a photo (first: mixed.tar/widow.json)",
    ):
        assert problem in last
    assert last in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_bad_samples_ends_in_one_line(
    tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    path = tiny.pack(tmp_path / "bad.tar", bad_samples(tiny))
    more = (f"data.train={path}", f"data.workers={workers}")
    line = refused(capfd, overrides(tiny, tmp_path, *more))
    assert "bad.tar/" in line
    assert "check the shards of data.train" in line


def test_an_error_of_one_rank_ends_all_of_them(tiny: Any, tmp_path: Path, shard: Path) -> None:
    """Rank 1 alone cannot read its shards: no hang, no traceback, its line is the answer."""
    script = tmp_path / "run.py"
    script.write_text(
        "import os, sys\n"
        "from sam_train.cli import main\n"
        "missing = os.environ.get('LOCAL_RANK', '0') == '1'\n"
        "main(sys.argv[1:] + ([f'data.train={sys.argv[0]}.tar'] if missing else []))\n"
    )
    arguments = overrides(tiny, tmp_path, f"data.train={shard}", "trainer.devices=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [forked.python(), str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert f"error: data.train: {script}.tar does not exist" in done.stderr


class _Ranges(SimpleHTTPRequestHandler):
    """Python's server of files, with the byte ranges that any real one has."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(span[1]) if span else 0
        last = min(int(span[2]), len(data) - 1) if span and span[2] else len(data) - 1
        self.send_response(206 if span else 200)
        self.send_header("Accept-Ranges", "bytes")
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the tests read what is said."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = partial(_Ranges, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_are_read_over_http(
    tiny: Any, tmp_path: Path, shard: Path, server: str, workers: int
) -> None:
    url = f"{server}/{shard.name}"
    main(overrides(tiny, tmp_path, f"data.train='{url}'", f"data.workers={workers}"))
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("url", ["{server}/nowhere.tar", "http://127.0.0.1:9/sa_000000.tar"])
def test_a_url_that_gives_nothing(
    tiny: Any, tmp_path: Path, server: str, capfd: pytest.CaptureFixture[str], url: str
) -> None:
    where = url.format(server=server)
    assert where in refused(capfd, overrides(tiny, tmp_path, f"data.train='{where}'"))
