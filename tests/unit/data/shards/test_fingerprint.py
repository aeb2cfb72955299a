"""Ranks and runs that see other samples are noticed, and copies of the same are not."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from data_tools import stage_in
from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.shards import fingerprint
from sam_train.data.shards.fingerprint import Fingerprint, require_same
from sam_train.data.shards.reader import open_shards
from sam_train.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def folder(shard: Write) -> Path:
    """Shards of 3 and 2 samples."""
    shard(2, name="sa_000001.tar", first=3)
    return shard(3).parent


def module(train: Path | list[str], **settings: Any) -> SamDataModule:
    train = [str(train)] if isinstance(train, Path) else train
    cfg = DataConfig(train=train, batch_size=1, workers=0, **settings)
    data = SamDataModule(cfg, image_size=32, grid_size=8, seed=0)
    data.setup("fit")
    return data


def of(train: Any, **options: Any) -> Fingerprint:
    return open_shards(train, option="data.train", **options).fingerprint


def test_copies_are_the_same_and_all_else_is_not(
    folder: Path, shard: Write, tmp_path: Path
) -> None:
    whole = of(str(folder))
    assert str(whole).startswith("5 samples in 2 shards (mark ")
    for name in ("x/b.tar", "y/a.tar"):
        (tmp_path / name).parent.mkdir()
    paths = [str(shard(2, name="x/b.tar", first=3)), str(shard(3, name="y/a.tar"))]
    swapped, copies = of(paths), tmp_path / "copies"
    assert stage_in.main([*paths, "--to", str(copies)]) == 0
    assert (copies / "000000-b.tar").exists()
    assert of(str(copies / "shards.txt")) == swapped
    (tmp_path / "without.txt").write_text("sa_1\n")
    others = [
        swapped,
        of(paths[0]),
        of(str(folder), exclude=str(tmp_path / "without.txt")),
        of(str(folder), include=str(tmp_path / "without.txt")),
    ]
    shard(2, name="sa_000001.tar", first=4)  # as many, but others
    others.append(of(str(folder)))
    assert len({whole, *others}) == 6


def test_the_odd_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fingerprint(shards=10, samples=100_000, digest="aa")
    less = Fingerprint(shards=10, samples=99_500, digest="bb")
    said = [("n1", whole), ("n1", whole), ("n2", less), ("n2", less), ("n3", whole)]
    monkeypatch.setattr(fingerprint, "gather", lambda _: said)
    for own in (whole, less):
        with pytest.raises(UserError) as error:
            require_same(own, option="data.train")
        assert str(error.value).startswith(
            "data.train: 2 of 5 ranks see other samples, the first is rank 2 on n2: 99,500 samples "
            "in 10 shards (mark bb), most have 100,000 samples in 10 shards (mark aa); make "
        )
    monkeypatch.setattr(fingerprint, "gather", lambda _: [("n1", whole), ("n2", whole)])
    require_same(whole, option="data.train")


def rank(number: int, folder: Path, trains: list[str], settings: dict[str, Any]) -> None:
    """What setting up says on one of two ranks."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=number, world_size=2
    )
    said = "fine"
    try:
        module([trains[number]], **settings)
    except UserError as error:
        said = str(error)
    (folder / f"{number}.txt").write_text(said)


@pytest.mark.parametrize("mode", ["indexed", "stream"])
def test_ranks_with_unlike_copies_do_not_begin(folder: Path, tmp_path: Path, mode: str) -> None:
    only = str(folder / "sa_000000.tar")
    for trains, expected in (
        ([str(folder), only], "data.train: 1 of 2 ranks see other samples, the first is rank 1"),
        ([only, only], "fine"),
    ):
        context = multiprocessing.get_context("fork")
        place = tmp_path / str(len(set(trains)))
        place.mkdir()
        settings = {"mode": mode}
        processes = [
            context.Process(target=rank, args=(number, place, trains, settings))
            for number in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        said = {(place / f"{number}.txt").read_text() for number in range(2)}
        assert len(said) == 1
        assert said.pop().startswith(expected)


def test_a_run_that_goes_on_with_other_samples_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = module(folder).state_dict()
    for train, saved in (
        (folder, state),
        (folder / "sa_000000.tar", {"position": 0, "step": 0}),  # as older versions saved it
    ):
        module(train).load_state_dict(saved)
        assert not [r for r in caplog.records if r.name.endswith("datamodule")]
    module(folder / "sa_000000.tar").load_state_dict(state)
    (line,) = (r.message for r in caplog.records if r.name.endswith("datamodule"))
    assert line.startswith("data.train holds 3 samples in 1 shard (mark ")
    assert "but the run had 5 samples in 2 shards (mark " in line
