"""SA-1B unpacked into folders is the same data as its tars; what is not used is counted."""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_tools import index as index_command
from data_tools import reshard, stage_in, stats, subset, verify, view
from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.data.skip_report import describe
from sam_train.data.skips import Tally
from sam_train.data.storage.compressed import tar_name
from sam_train.data.storage.tape import read_pairs
from sam_train.errors import UserError


def opened(*patterns: Any, **options: Any) -> Shards:
    return open_shards([str(p) for p in patterns], option="data.train", **options)


def entries(shards: Shards) -> dict[str, tuple[bytes, bytes]]:
    """By key without the shard's name."""
    found = {}
    for k in range(len(shards)):
        entry = shards.read(k)
        found[shards.key(k).partition("/")[2]] = (entry.jpeg, entry.json)
    return found


@pytest.fixture
def tar(shard: Callable[..., Path]) -> Path:
    return shard(4)


@pytest.fixture
def tree(tar: Path, tmp_path: Path) -> Path:
    """sam/sa_000020 and sam/sa_000021 with two samples each."""
    root = tmp_path / "sam"
    for number, folder in enumerate(("sa_000020", "sa_000021")):
        (root / folder).mkdir(parents=True)
        with tarfile.open(tar) as source:
            for member in source.getmembers()[4 * number : 4 * number + 4]:
                source.extract(member, root / folder, filter="data")
    return root


@pytest.mark.parametrize(
    "patterns",
    [
        ["sam"],
        ["sam/"],
        ["sam/sa_000020", "sam/sa_000021"],
        ["sam/sa_*"],
        ["sam/sa_{000020..000021}"],
        ["sam/*/*.json"],
        ["sam/*/*.jpg"],
        ["sam/*/*"],
        ["sam/*/sa_*.*"],
        ["sam/**/*.json"],
        [f"sam/sa_00002{k // 2}/sa_{k}.json" for k in range(4)],
        ["list.txt"],
    ],
)
def test_folders_are_the_samples_of_their_tar(
    tar: Path, tree: Path, patterns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    Path("list.txt").write_text("sam/sa_000021\nsam/sa_000020/*.json\n")
    shards = opened(*patterns)
    assert entries(shards) == entries(opened(tar))
    assert {shards.key(k) for k in range(4)} == {f"sa_00002{k // 2}/sa_{k}" for k in range(4)}
    streamed = [pair for path in resolve(patterns, option="x")
                for pair in read_pairs(path, left_out=pytest.fail)]  # fmt: skip
    assert {p.key: (p.entry.jpeg, p.entry.json) for p in streamed} == entries(shards)


def test_a_glob_takes_what_it_names_and_no_more(tree: Path) -> None:
    assert set(entries(opened(tree / "*" / "sa_[12].json"))) == {"sa_1", "sa_2"}
    odd = tree / "sa_000020" / "a[1].jpg"
    odd.write_bytes((tree / "sa_000020" / "sa_0.jpg").read_bytes())
    odd.with_suffix(".json").write_bytes((tree / "sa_000020" / "sa_0.json").read_bytes())
    assert set(entries(opened(odd))) == {"a[1]"}


def test_training_takes_the_same_masks_from_folders_as_from_the_tar(
    tar: Path, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    for file in tree.rglob("sa_*.*"):
        file.rename(tmp_path / "one" / file.name)
    batches = []
    for source in (tar, tmp_path / "one"):
        cfg = DataConfig(train=str(source), batch_size=4, masks_per_image=3, workers=0)
        data = SamDataModule(cfg, image_size=32, grid_size=16, seed=5)
        batches.append(next(iter(data.train_dataloader())))
    assert (batches[0].images == batches[1].images).all()
    assert (batches[0].masks == batches[1].masks).all()
    assert (batches[0].points == batches[1].points).all()


def test_what_is_no_sample_is_counted_by_its_reason(
    tree: Path, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One thing of each kind: what lies there is used, or it is in a count."""
    folder, (jpeg, text) = tree / "sa_000020", (data for _, data in make.sample_files(9))
    (folder / "lonely.jpg").write_bytes(jpeg)
    (folder / "left.json").write_bytes(text)
    (folder / "README.txt").write_text("x")
    (folder / "._sa_0.jpg").write_text("x")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "upper.JPG").write_bytes(jpeg)
    (folder / "upper.JSON").write_bytes(text)
    (folder / "long.jpeg").write_bytes(jpeg)
    (folder / "long.json").write_bytes(text)
    (folder / "long.jpg.bak").write_text("x")
    (tree / "thumbs").mkdir()
    (tree / "thumbs" / "sa_0.jpg").write_bytes(jpeg)
    shards = opened(tree)
    assert set(entries(shards)) == {"sa_0", "sa_1", "sa_2", "sa_3", "upper", "long"}
    said = describe(Tally(), shards, option="data.train")
    assert said == (
        "data.train: left out 2 without a JSON (first: sa_000020/lonely.jpg); "
        "left out 1 without a photo (first: sa_000020/left.json); "
        "left out 3 other files (first: sa_000020/._sa_0.jpg); "
        "refused 1 links or unsafe names (first: sa_000020/'gone.jpg')"
    )
    files = [f for f in tree.rglob("*") if not f.is_dir()]
    assert len(files) == 2 * len(shards) + 2 + 1 + 3 + 1
    assert f"Folder {tree}/thumbs holds no pair of .jpg and .json (1 photos" in caplog.text


def test_tars_take_the_same_endings_and_count_the_rest(tmp_path: Path, make: Any) -> None:
    jpeg, text = (data for _, data in make.sample_files(9))
    files = [("./a.JPG", jpeg), ("./a.json", text), ("b.jpeg", jpeg), ("b.json", text)]
    files += [("._a.jpg", b"x"), ("._a.json", b"x"), ("notes.txt", b"x")]
    path = make.pack(tmp_path / "a.tar", files)
    assert entries(opened(path)) == {"a": (jpeg, text), "b": (jpeg, text)}
    (row,) = opened(path).rows
    assert (row.others, row.without_json, row.without_jpeg) == (3, 0, 0)
    assert {pair.key for pair in read_pairs(str(path), left_out=pytest.fail)} == {"a", "b"}


def test_a_file_that_changes_or_goes_is_a_skip(tree: Path) -> None:
    shards = opened(tree)
    (tree / "sa_000020" / "sa_0.jpg").write_bytes(b"other")
    (tree / "sa_000021" / "sa_2.json").unlink()
    for sample in (0, 2):
        with pytest.raises(OSError, match="changed since it was indexed"):
            shards.read(sample)
    assert shards.read(1).jpeg


def test_an_index_knows_folders_until_they_change(
    tree: Path, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert index_command.main([str(tree), "--workers", "0"]) == 0
    expected = entries(opened(tree))
    with caplog.at_level(logging.INFO):
        assert entries(opened(tree, index=tree / "sa_index.bin")) == expected
    assert "changed since" not in caplog.text
    for name, data in make.sample_files(7):
        (tree / "sa_000021" / name).write_bytes(data)
    assert len(opened(tree)) == 5
    assert "sa_000021 changed since it was indexed" in caplog.text


def test_samples_of_folders_are_excluded_by_their_names(tree: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists.txt"
    lists.write_text("sa_000020/sa_1\nsa_2\nsa_000021/sa_0\n")
    assert set(entries(opened(tree, exclude=str(lists)))) == {"sa_0", "sa_3"}
    assert set(entries(opened(tree, include=str(lists)))) == {"sa_1", "sa_2"}


def test_every_data_tool_takes_folders_or_says_what_to_do(
    tree: Path, tar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [str(tree), "--workers", "0"]
    report = tmp_path / "report.json"
    verify.main([*plain, "--report", str(report)])
    assert json.loads(report.read_text())["samples"] == 4
    assert stats.main([*plain, "--out", str(tmp_path / "stats")]) == 0
    assert json.loads((tmp_path / "stats" / "stats.json").read_text())["images"] == 4
    assert view.main([*plain, "--key", "sa_3", "--out", str(tmp_path / "x.png")]) == 0
    assert subset.main([str(tree), "--fraction", "1", "--out", str(tmp_path / "lists")]) == 0
    assert (tmp_path / "lists" / "subset_1.txt").read_text().split() == [
        f"sa_{k}" for k in range(4)
    ]
    assert reshard.main([*plain, "--out", str(tmp_path / "tars")]) == 0
    assert entries(opened(tmp_path / "tars")) == entries(opened(tar))
    capsys.readouterr()
    assert stage_in.main([str(tree), "--to", str(tmp_path / "fast")]) == 2
    assert "python -m data_tools.reshard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "pack", "command"),
    [
        ("a.tar", gzip.compress, "gzip -dc {} > {}/a_unpacked.tar"),
        ("a.tar.gz", gzip.compress, "gzip -dc {} > {}/a.tar"),
        ("a.tgz", gzip.compress, "gzip -dc {} > {}/a.tar"),
        ("a.tar.bz2", bz2.compress, "bzip2 -dc {} > {}/a.tar"),
        ("a.tar.xz", lzma.compress, "xz -dc {} > {}/a.tar"),
    ],
)
def test_a_compressed_tar_is_named_with_the_command_that_unpacks_it(
    tar: Path, tmp_path: Path, name: str, pack: Callable[[bytes], bytes], command: str
) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    path = folder / name
    path.write_bytes(pack(tar.read_bytes()))
    said = command.format(path, folder)
    with pytest.raises(UserError) as caught:
        opened(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    # The command is right: what it writes is read.
    assert os.system(said) == 0
    assert entries(opened(tar_name(str(path)))) == entries(opened(tar))
    Path(tar_name(str(path))).unlink()
    if path.suffix != ".tar":
        with pytest.raises(UserError, match=r"compressed archives .*unpack each once"):
            opened(folder)
    with pytest.raises(OSError, match="cannot be read in parts"):
        list(read_pairs(str(path), left_out=pytest.fail))
    piped = f"pipe:{said.partition(' > ')[0]}"
    assert len(list(read_pairs(piped, left_out=pytest.fail))) == 4


def test_a_zip_is_unpacked_into_a_folder(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "z" / "sam.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file:
        for each in tree.rglob("sa_*.*"):
            file.writestr(each.name, each.read_bytes())
    for given in (path, path.parent):
        with pytest.raises(UserError, match=rf"unzip {path} -d {path.with_suffix('')}"):
            opened(given)


def test_a_folder_without_a_sample_says_what_it_holds(tmp_path: Path, make: Any) -> None:
    (jpeg, text), root = (data for _, data in make.sample_files(1)), tmp_path / "root"
    (root / "images").mkdir(parents=True)
    for k in range(3):
        (root / "images" / f"{k}.jpg").write_bytes(jpeg)

    def refusal() -> str:
        with pytest.raises(UserError) as caught:
            opened(root)
        return str(caught.value)

    assert (
        "but 3 pictures without masks of a known format: `python -m data_tools.convert --help`"
        in refusal()
    )
    (root / "instances.json").write_bytes(text)
    assert f"data_tools.convert coco --images {root}/images --annotations {root}/" in refusal()
    (root / "labels").mkdir()
    (root / "instances.json").unlink()
    for k in range(3):
        (root / "labels" / f"{k}.json").write_bytes(text)
    link = refusal().partition("`")[2].partition("`")[0]
    assert link.startswith("ln -s ")
    assert os.system(link) == 0
    assert len(opened(root)) == 3


def test_a_tar_packed_by_hand_is_read_and_streaming_says_what_pairs_it(
    tmp_path: Path, make: Any
) -> None:
    files = [f for k in range(40) for f in make.sample_files(k, masks=1)]
    path = make.pack(tmp_path / "byhand.tar", sorted(files, key=lambda f: f[0].endswith(".json")))
    assert len(opened(path)) == 40
    left: list[str] = []
    found = list(read_pairs(str(path), left_out=left.append))
    assert len(found) + len(left) // 2 == 40 or len(left) > 0
    assert all("data_tools.reshard" in each for each in left)
    reshard.main([str(path), "--out", str(tmp_path / "paired"), "--workers", "0"])
    (paired,) = (tmp_path / "paired").glob("*.tar")
    assert len(list(read_pairs(str(paired), left_out=pytest.fail))) == 40


def test_a_stream_takes_what_a_recipe_set(tree: Path) -> None:
    """quickstart keeps photos in memory: that is no reason to refuse a stream."""
    cfg = DataConfig(
        train=str(tree), mode="stream", cache=True, shuffle_window=2, batch_size=2, workers=0,
        masks_per_image=2, shuffle_buffer=1,
    )  # fmt: skip
    data = SamDataModule(cfg, image_size=32, grid_size=16, seed=0)
    batch = next(iter(data.train_dataloader()))
    assert batch.num_masks
    assert np.asarray(batch.masks).any((1, 2)).all()
