"""`python -m data_tools.sample`: the same bytes however it is run, and polite to what is there."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools import sample
from data_tools.sample import SampleConfig, write_sample
from sam_train.errors import UserError

SMALL = SampleConfig(scenes=7, height=64, width=80, seed=5, shard_size=3)
ARGUMENTS = ["--scenes", "7", "--size", "64x80", "--seed", "5", "--shard-size", "3"]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "one"
    write_sample(SMALL, out, workers=1)
    return out


def test_two_workers_write_the_same_bytes_as_one(dataset: Path, tmp_path: Path) -> None:
    write_sample(SMALL, tmp_path, workers=2)
    assert _contents(tmp_path) == _contents(dataset)
    assert list(_contents(dataset)) == [
        "sa_000000.tar", "sa_000001.tar", "sa_000002.tar", "sample.json",
    ]  # fmt: skip


def test_photos_and_annotations_belong_together(dataset: Path) -> None:
    ids: list[int] = []
    for number, path in enumerate(sorted(dataset.glob("*.tar"))):
        with tarfile.open(path) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        first = 3 * number + 1
        assert [name for name in files if name.endswith("jpg")] == [
            f"sa_{k}.jpg" for k in range(first, min(first + 3, 8))
        ]
        for name, content in files.items():
            if not name.endswith("json"):
                continue
            record = json.loads(content)
            image = Image.open(io.BytesIO(files[record["image"]["file_name"]]))
            assert image.size == (record["image"]["width"], record["image"]["height"]) == (80, 64)
            for found in record["annotations"]:
                ids.append(found["id"])
                assert coco_mask.decode(found["segmentation"]).shape == (64, 80)
    assert len(ids) == len(set(ids)) > 20


def test_running_again_does_nothing_and_says_so(dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.iterdir()}
    answer = sample.run(["--out", str(dataset), *ARGUMENTS])
    assert "7 scenes are there already, nothing to do" in answer
    assert {path: path.stat().st_mtime_ns for path in dataset.iterdir()} == before


def test_only_a_missing_shard_is_drawn_again(dataset: Path, tmp_path: Path) -> None:
    for name, content in _contents(dataset).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sa_000001.tar").unlink()
    written = write_sample(SMALL, tmp_path)
    assert [path.name for path in written] == ["sa_000001.tar"]
    assert _contents(tmp_path) == _contents(dataset)


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "none"
    assert "would write 3 of 3 shards" in sample.run(["--out", str(out), "--dry-run", *ARGUMENTS])
    assert not out.exists()


def test_other_data_is_neither_mixed_in_nor_lost(dataset: Path, tmp_path: Path) -> None:
    for name, content in _contents(dataset).items():
        (tmp_path / name).write_bytes(content)
    other = ["--out", str(tmp_path), "--scenes", "2", "--size", "32"]
    with pytest.raises(UserError, match="made with another scenes, height, width, seed"):
        sample.run(other)
    assert _contents(tmp_path) == _contents(dataset)
    assert "2 scenes of 32x32" in sample.run([*other, "--overwrite", "--workers", "1"])
    assert list(_contents(tmp_path)) == ["sa_000000.tar", "sample.json"]


def test_foreign_shards_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sa_000000.tar").write_bytes(b"somebody's")
    for extra in ([], ["--overwrite"]):
        with pytest.raises(UserError, match="shards this command did not write"):
            sample.run(["--out", str(tmp_path), *ARGUMENTS, *extra])
    assert (tmp_path / "sa_000000.tar").read_bytes() == b"somebody's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scenes", "0"], "must be at least 1"),
        (["--size", "8"], "--size 8x8 is too small"),
        (["--seed", "-1"], "--seed -1 must not be negative"),
    ],
)
def test_unusable_settings_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["sample", "--out", str(tmp_path / "x"), *arguments])
    assert sample.main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to .*file/x: Not a directory"):
        sample.run(["--out", str(tmp_path / "file/x"), *ARGUMENTS])
