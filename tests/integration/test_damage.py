"""Training and tools through damage of every kind: what is one sample's fault is skipped and
counted, what is the set's or the disk's ends in one line, nothing ends in a traceback."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from sam_train.cli import main
from sam_train.data.sample.decode import BadSample
from sam_train.data.sample.scenes import Scenes
from sam_train.data.shards.index import open_index
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.train.module import SamModule

ABSURD = ["oooo0", "O", "ooooo0", "a b\u00e9", "", "0" * 3000, "o" * 3000]


def annotations(*segmentations: Any) -> bytes:
    """A JSON with these masks."""
    return json.dumps(
        {"annotations": [{"id": k, "segmentation": s} for k, s in enumerate(segmentations)]}
    ).encode()


def jpeg_that_claims(photo: bytes, *, height: int, width: int) -> bytes:
    """A small JPEG whose header states another size."""
    data = bytearray(photo)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)


def damaged_samples(tiny: Any) -> list[tuple[str, bytes]]:
    """Both files of samples that each have one thing wrong, after whose kind they are called."""
    photo, good = tiny.photo(80), tiny.record(tiny.rectangles())
    size = list(tiny.rectangles().shape[1:])
    true = json.loads(good)["annotations"][0]["segmentation"]
    # A JPEG states at most 65,535 pixels a side; a PNG under its name says the rest.
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    pairs = {
        "cut_jpeg": (photo[:700], good),
        "huge_jpeg": (jpeg_that_claims(photo, height=65_535, width=65_535), good),
        "huge_png": (png, good),
        "cut_json": (photo, good[:50]),
        "deep_json": (photo, b'{"a":' + b"[" * 100_000),
        "no_json": (photo, os.urandom(300)),
        "absurd_rle": (photo, annotations(*({"size": size, "counts": c} for c in ABSURD))),
        "absurd_size": (photo, annotations({**true, "size": [10**9, 10**9]})),
        "half_good": (photo, annotations({"size": size, "counts": "O"}, true)),
    }
    return [
        file
        for key, (jpeg, text) in pairs.items()
        for file in ((f"{key}.jpg", jpeg), (f"{key}.json", text))
    ]


def add_unsafe(path: Path) -> None:
    """A symlink and names that point out of the archive, at the end of a tar."""
    with tarfile.open(path, "a") as tar:
        for name, kind in [
            *(("link.jpg", tarfile.SYMTYPE), ("link.json", tarfile.SYMTYPE)),
            *(("../up.jpg", tarfile.REGTYPE), ("../up.json", tarfile.REGTYPE)),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory, tiny: Any) -> Path:
    """A folder with a good shard, one of damaged samples, one that is cut, and one of rubbish."""
    folder = tmp_path_factory.mktemp("damaged")
    tiny.pack(folder / "sa_0.tar", tiny.good(10))
    add_unsafe(tiny.pack(folder / "sa_1.tar", damaged_samples(tiny)))
    cut = tiny.pack(folder / "sa_2.tar", tiny.good(3, first=50))
    cut.write_bytes(cut.read_bytes()[:-11_000])
    return folder


def overrides(tiny: Any, run_dir: Path, *more: str) -> list[str]:
    return ["fit", *tiny.settings, f"run_dir={run_dir}", *more]


def refused(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[str, str]:
    """The one line of a run that had to stop, and what it said before."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said, complained = capfd.readouterr()
    assert caught.value.code == 2
    assert "Traceback" not in said + complained
    lines = [line for line in complained.splitlines() if line.strip()]
    assert len(lines) == 1, complained
    assert lines[0].startswith("error: ")
    return lines[0], said


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Makes something happen once, in the middle of training, after a step."""

    def arrange(step: int, happen: Callable[[], None]) -> None:
        waiting = [happen]

        def hook(self: SamModule, *_: Any) -> None:
            if waiting and self.trainer.global_step >= step:
                waiting.pop()()

        monkeypatch.setattr(SamModule, "on_train_batch_end", hook)

    return arrange


@pytest.mark.parametrize("workers", [0, 1])
def test_training_skips_and_counts_whatever_is_one_samples_fault(
    tiny: Any, damaged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    more = (f"data.train={damaged}", f"data.workers={workers}", "data.batch_size=10")
    arguments = overrides(tiny, tmp_path, *more, "data.max_skip_fraction=1")
    main([*arguments, "trainer.max_steps=4"])
    said, complained = capfd.readouterr()
    assert "Traceback" not in said + complained
    last = next(line for line in reversed(said.splitlines()) if line.startswith("data.train:"))
    for problem in (
        r"skipped \d+ of \d+ samples read",
        r"\d+ corrupt or oversized JPEG \(first: sa_1.tar/cut_jpeg\)",
        r"\d+ corrupt JSON \(first: sa_1.tar/cut_json\)",
        r"\d+ every mask's RLE is invalid \(first: sa_1.tar/absurd_rle\)",
        r"\d+ single masks with an invalid RLE .*\(first: sa_1.tar/half_good\)",
        r"refused 4 links or unsafe names \(first: sa_1.tar/'link.jpg'\)",
        r"1 damaged shards \(first: .*sa_2.tar, cut at byte \d+",
    ):
        assert re.search(problem, last), last
    weights = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    if not workers:  # 65,535 x 65,535 pixels would be 12 GB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 1 << 20


@pytest.mark.parametrize(
    ("key", "kind", "reason"),
    [
        ("cut_jpeg", "bad_jpeg", "damaged JPEG"),
        ("huge_jpeg", "bad_jpeg", "more than 89,478,485 pixels"),
        ("huge_png", "bad_jpeg", "not a readable JPEG"),
        ("cut_json", "bad_json", "unreadable annotations"),
        ("deep_json", "bad_json", "unreadable annotations"),
        ("no_json", "bad_json", "unreadable annotations"),
        ("absurd_rle", "bad_rle", "mask 0: RLE runs past the end of the image"),
        ("absurd_size", "bad_rle", "mask 0: RLE size disagrees with the image"),
    ],
)
def test_every_damaged_sample_says_what_is_wrong_with_it(
    damaged: Path, key: str, kind: str, reason: str
) -> None:
    shards = open_shards(str(damaged / "sa_1.tar"), option="data.train")
    skips = Skips(workers=0, max_fraction=1)
    scenes = Scenes(shards, image_size=64, max_area_fraction=1, skips=skips)
    keys = [shards.key(k) for k in range(len(shards))]
    with pytest.raises(BadSample, match=reason) as caught:
        scenes.get(keys.index(f"sa_1.tar/{key}"), draw_key=(0, 0, 0))
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def test_more_than_the_allowed_part_ends_in_one_line(
    tiny: Any, damaged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = overrides(tiny, tmp_path, f"data.train={damaged}", "data.batch_size=30")
    line, _ = refused(capfd, [*arguments, "trainer.max_steps=9"])
    assert re.match(r"error: \d+ of \d+ samples could not be used \(\d+ corrupt", line)
    assert "the last: sa_1.tar/" in line
    assert "check the shards of data.train, or raise data.max_skip_fraction above 0.1" in line


@pytest.fixture
def three(tiny: Any, tmp_path: Path) -> list[Path]:
    """Three good shards that a test may spoil."""
    return [tiny.pack(tmp_path / f"sa_{k}.tar", tiny.good(4, first=10 * k)) for k in range(3)]


def test_a_shard_that_vanishes_in_the_middle(
    tiny: Any,
    tmp_path: Path,
    *,
    three: list[Path],
    capfd: pytest.CaptureFixture[str],
    during: Callable[[int, Callable[[], None]], None],
) -> None:
    during(1, three[1].unlink)
    more = (f"data.train={tmp_path}", "data.batch_size=16", "trainer.max_steps=20")
    line, said = refused(capfd, overrides(tiny, tmp_path / "run", *more))
    assert re.match(r"error: \d+ of \d+ samples could not be used \(\d+ could not be read", line)
    assert f"No such file or directory: '{three[1]}'" in line
    assert "step 1/20" in said


@pytest.mark.parametrize("size", ["of another size", "of the same size"])
def test_a_shard_that_becomes_another_one_in_the_middle(
    tiny: Any,
    tmp_path: Path,
    *,
    three: list[Path],
    capfd: pytest.CaptureFixture[str],
    during: Callable[[int, Callable[[], None]], None],
    size: str,
) -> None:
    other = tmp_path / "other"
    if size == "of the same size":
        # The photos change places: each lies where the index knows another.
        files = tiny.good(4, first=10)
        tiny.pack(other, files[2:] + files[:2])
        assert other.stat().st_size == three[1].stat().st_size
    else:
        tiny.pack(other, tiny.good(6, first=70))

    def swap() -> None:
        other.replace(three[1])

    during(1, swap)
    more = (f"data.train={tmp_path}", "data.batch_size=12", "data.max_skip_fraction=1")
    main([*overrides(tiny, tmp_path / "run", *more), "trainer.max_steps=3"])
    said, complained = capfd.readouterr()
    assert "Traceback" not in said + complained
    assert "sa_1.tar changed since it was indexed" in said
    last = next(line for line in reversed(said.splitlines()) if line.startswith("data.train:"))
    assert re.search(r"\d+ could not be read from the shard \(first: sa_1.tar/sa_1\d\)", last)
    assert "step 3/3" in said


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Files of this process end at so many bytes: what a full disk does, for every user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_is_full_leaves_the_checkpoint_that_was_there(
    tiny: Any,
    tmp_path: Path,
    *,
    three: list[Path],
    capfd: pytest.CaptureFixture[str],
    during: Callable[[int, Callable[[], None]], None],
    file_limit: Callable[[int], None],
) -> None:
    run_dir = tmp_path / "run"
    more = (f"data.train={tmp_path}", "checkpoint.every_steps=1", "checkpoint.background=false")
    arguments = overrides(tiny, run_dir, *more)
    during(1, lambda: file_limit(1 << 16))
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    file_limit(resource.RLIM_INFINITY)
    said, complained = capfd.readouterr()
    assert caught.value.code == 2
    assert "Traceback" not in said + complained
    assert f"error: run_dir={run_dir} cannot be written any more (File too large)" in complained
    assert "goes on from the newest checkpoint" in complained
    kept = list((run_dir / "checkpoints").iterdir())
    assert {path.name for path in kept} == {"step=1.ckpt", "last.ckpt"}
    for path in kept:
        assert torch.load(path, weights_only=True)["global_step"] == 1
    main(arguments)
    assert "step 2/2" in capfd.readouterr().out


def test_a_log_on_a_full_disk_is_silent(tmp_path: Path) -> None:
    """`/dev/full` says that there is no space, as often as it is written."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code = (
        "import logging\nfrom pathlib import Path\nfrom sam_train.runtime.log import start_log\n"
        "start_log(Path('/dev/full'))\nlogging.getLogger('sam_train').info('still here')\n"
    )
    done = subprocess.run(
        [forked.python(), "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert [done.returncode, done.stdout, done.stderr] == [0, "still here\n", ""]


def run_tool(cwd: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A data tool as people call it."""
    done = subprocess.run(
        [forked.python(), "-m", f"data_tools.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def test_verify_reports_all_of_it_and_training_goes_without(
    tiny: Any, damaged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report, exclude = tmp_path / "report.json", tmp_path / "exclude.txt"
    done = run_tool(
        tmp_path, "verify", damaged, "--decode", "--workers", 0,
        "--report", report, "--exclude", exclude,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    problems = json.loads(report.read_text())
    text = json.dumps(problems)
    for kind in ("cut_shard", "refused_member", "bad_jpeg", "bad_json", "bad_rle", "no_mask"):
        assert kind in text
    listed = {line for line in exclude.read_text().splitlines() if not line.startswith("#")}
    bad = {name.removesuffix(".jpg") for name, _ in damaged_samples(tiny) if name.endswith(".jpg")}
    bad.remove("half_good")
    assert {f"sa_1.tar/{key}" for key in bad} <= listed
    assert not any(name.startswith("sa_0.tar/") for name in listed)
    more = (f"data.train={damaged}", f"data.exclude={exclude}", "data.batch_size=12")
    main([*overrides(tiny, tmp_path / "run", *more), "trainer.max_steps=1"])
    assert "samples read" not in capfd.readouterr().out


def test_index_stats_and_reshard_report_damage_and_go_on(
    tiny: Any, damaged: Path, tmp_path: Path
) -> None:
    done = run_tool(tmp_path, "index", damaged, "--out", tmp_path / "sa_index.bin")
    said = done.stdout + done.stderr
    assert done.returncode in {0, 1}, said
    assert "sa_2.tar" in said
    assert len(open_index(tmp_path / "sa_index.bin")) == len(
        open_shards(str(damaged), option="data.train")
    )
    done = run_tool(tmp_path, "stats", damaged, "--out", tmp_path / "stats", "--workers", 0)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert list((tmp_path / "stats").glob("*.json"))
    done = run_tool(tmp_path, "reshard", damaged, "--out", tmp_path / "new", "--workers", 0)
    said = done.stdout + done.stderr
    assert done.returncode in {0, 1}, said
    assert "sa_1.tar/" in said
    again = open_shards(str(tmp_path / "new"), option="data.train")
    assert {f"sa_{k}" for k in range(10)} <= {again.key(k).split("/")[1] for k in range(len(again))}
