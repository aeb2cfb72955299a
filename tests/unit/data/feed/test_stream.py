"""Shards read front to back: the same samples, whole shards on resume, and what is damaged."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sam_train.data.config import DataConfig, check
from sam_train.data.datamodule import SamDataModule
from sam_train.data.feed.loader import make_train_loader
from sam_train.data.feed.stream import Consumed, StreamLoader, make_stream_loader, open_stream
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.data.storage.tape import read_pairs
from sam_train.errors import UserError
from sam_train.types import Batch

S, R = 32, 16
SIZES = (3, 4, 5)


@pytest.fixture
def folder(shard: Callable[..., Path]) -> Path:
    """Shards of 3, 4 and 5 samples."""
    for k, size in enumerate(SIZES):
        path = shard(size, name=f"sa_{k:06d}.tar", first=10 * k)
    return path.parent


def stream(cfg: DataConfig, *, skips: Skips | None = None, **options: Any) -> StreamLoader:
    cfg.mode = "stream"
    check(cfg)
    return make_stream_loader(
        open_stream(cfg, option="data.train"),
        cfg,
        image_size=S,
        grid_size=R,
        seed=1,
        skips=skips or Skips(workers=cfg.workers, max_fraction=cfg.max_skip_fraction),
        **options,
    )


def settings(train: Any, **more: Any) -> DataConfig:
    options: dict[str, Any] = {"batch_size": 2, "masks_per_image": 9, "workers": 0}
    return DataConfig(train=train, **{"shuffle_buffer": 4, **options, **more})


def keys(batches: list[Batch]) -> list[str]:
    return [key.rsplit("/", 1)[-1] for batch in batches for key in batch.keys]


def test_commands_and_files_give_the_samples_of_an_index(folder: Path) -> None:
    cfg = settings(str(folder), batch_size=1)
    indexed = make_train_loader(
        open_shards(cfg.train, option="data.train"),
        cfg,
        image_size=S,
        grid_size=R,
        seed=1,
        skips=Skips(workers=0, max_fraction=1),
    )
    expected = {keys([b])[0]: b for b in islice(indexed, 12)}
    piped = settings([f"pipe:cat {folder}/sa_00000{{0..1}}.tar", str(folder / "sa_000002.tar")])
    piped.batch_size = 1
    for source in (cfg, piped):
        seen = {keys([b])[0]: b for b in islice(stream(source), 12)}
        assert seen.keys() == expected.keys()
        for key, batch in seen.items():
            # Fewer masks than may be drawn: all of them, whatever the draw.
            for name in ("images", "masks", "boxes", "image_sizes", "original_sizes"):
                assert torch.equal(getattr(batch, name), getattr(expected[key], name)), (key, name)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (5, 0), (1, 2)])
def test_every_epoch_is_complete_over_all_ranks_and_workers(
    folder: Path, world: int, workers: int
) -> None:
    """10 epochs: every sample about 10 times, and every rank has as many batches as it asks for."""
    cfg = settings(str(folder), batch_size=2 * world, workers=workers, start_method="fork")
    steps = 60 // world
    batches = [list(islice(stream(cfg, rank=r, world_size=world), steps)) for r in range(world)]
    assert {len(b.keys) for of_rank in batches for b in of_rank} == {2}
    assert {len(of_rank) for of_rank in batches} == {steps}
    counts = Counter(key for of_rank in batches for key in keys(of_rank))
    assert len(counts) == 12
    # Readers are at most some shards apart, and each holds back what is in its buffer.
    assert max(counts.values()) - min(counts.values()) <= 4 + world
    places = [p for of_rank in batches for b in of_rank for p in b.positions]
    assert len(set(places)) == len(places)


def test_order_and_draws_are_of_the_seed_and_shuffled(folder: Path) -> None:
    cfg = settings(str(folder), masks_per_image=2)
    first, second = (list(islice(stream(cfg), 18)) for _ in range(2))
    assert keys(first) == keys(second)
    assert torch.equal(first[-1].points, second[-1].points)
    # One buffer of 1: shards in a random order, each from front to back.
    plain = keys(list(islice(stream(settings(str(folder), shuffle_buffer=1)), 18)))
    shards = [int(key.removeprefix("sa_")) // 10 for key in plain]
    changes = [s for k, s in enumerate(shards) if k == 0 or s != shards[k - 1]]
    assert changes != sorted(changes)
    assert [k for k in plain[:12] if len(k) == 5 and k > "sa_2"] == [f"sa_2{n}" for n in range(5)]
    assert keys(first) != plain
    # The draw is of the epoch and the sample, not of what reads it.
    split = [b for r in range(2) for b in islice(stream(cfg, rank=r, world_size=2), 18)]
    draws = {p: b.masks[b.image_index == k] for b in first for k, p in enumerate(b.positions)}
    common = 0
    for batch in split:
        for k, place in enumerate(batch.positions):
            if place in draws:
                assert torch.equal(batch.masks[batch.image_index == k], draws[place])
                common += 1
    assert common > 12


@given(st.lists(st.sets(st.integers(0, 12))))
def test_consumed_turns_are_never_among_those_that_remain(finished: list[set[int]]) -> None:
    consumed = Consumed()
    for turns in finished:
        consumed = consumed.add(turns)
    everything = set().union(*finished)
    assert (
        list(islice(consumed.remaining(), 30))
        == [t for t in range(30 + len(everything)) if t not in everything][:30]
    )
    assert consumed.before not in consumed.beyond
    assert Consumed.from_state(consumed.as_state()) == consumed


@pytest.mark.parametrize("stop", range(0, 12))
def test_a_resumed_stream_reads_no_finished_shard_again(folder: Path, stop: int) -> None:
    loader = stream(settings(str(folder), batch_size=1))
    seen = list(islice(loader, stop + 3))
    consumed = loader.consumed(stop)  # three more were prepared, and are not consumed
    turns = Counter(p >> 24 for b in seen[:stop] for p in b.positions)
    sizes = {t: SIZES[int(keys([b])[0][3:]) // 10] for b in seen for t in [b.positions[0] >> 24]}
    finished = {t for t, number in turns.items() if number == sizes[t]}
    assert set(range(consumed.before)) | consumed.beyond == finished
    resumed = stream(settings(str(folder), batch_size=1), consumed=consumed)
    again = [b.positions[0] for b in islice(resumed, 24)]
    assert not {p >> 24 for p in again} & finished
    # What was begun comes again from its beginning, and nothing else is left out.
    whole = {t for t in range(3) if t not in finished}
    counts = Counter(p >> 24 for p in again)
    assert all(counts[t] in SIZES for t in whole)


def test_the_state_of_a_stream_goes_through_a_checkpoint(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = settings(str(folder), mode="stream", batch_size=4, shuffle_buffer=1)
    first = SamDataModule(cfg, image_size=S, grid_size=R, seed=1)
    assert len(list(islice(first.train_dataloader(), 2))) == 2
    state = first.state_dict()
    assert state["stream"] == {"shards": 3, "before": 0, "beyond": []}  # no step is finished
    state |= {"position": 8, "step": 2, "stream": {"shards": 3, "before": 1, "beyond": [2]}}
    second = SamDataModule(cfg, image_size=S, grid_size=R, seed=1)
    second.load_state_dict(state)
    with caplog.at_level(logging.INFO):
        batches = list(islice(second.train_dataloader(), 2))
    assert "whole shards: 2 were read to their end" in caplog.text
    assert {p >> 24 for b in batches for p in b.positions} <= {1, 3, 4}
    assert second.state_dict()["stream"]["before"] == 1
    caplog.clear()
    other = settings(str(folder / "sa_000000.tar"), mode="stream")
    SamDataModule(other, image_size=S, grid_size=R, seed=1).load_state_dict(state)
    assert "begins at its first shard" in caplog.text


def test_a_command_that_fails_is_named_with_its_exit_status(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"pipe:exit 7: .*exit status 7.* check the shards"):
        list(islice(stream(settings("pipe:exit 7")), 1))
    # One of many: what it printed before is used, and the others go on.
    bad = f"pipe:head -c 9000 {folder / 'sa_000002.tar'}; exit 3"
    train = [bad, *(str(folder / f"sa_00000{k}.tar") for k in (0, 1))]
    skips = Skips(workers=0, max_fraction=1.0)
    cfg = settings(train, max_skip_fraction=1.0, batch_size=1)
    seen = keys(list(islice(stream(cfg, skips=skips), 30)))
    assert skips.totals()["unreadable"] >= 1
    assert f"{bad}: the command ended with exit status 3, after" in caplog.text
    assert {f"sa_{k}" for k in (0, 1, 2, 10, 11, 12, 13)} <= set(seen)
    assert 0 < len([k for k in set(seen) if len(k) == 5 and k > "sa_2"]) < 5
    # Again and again: not one shard's fault any more.
    cfg.max_skip_fraction = 0.1
    with pytest.raises(UserError, match=r"3 of \d+ shards could not be read .*exit status 3"):
        list(islice(stream(cfg), 200))


def test_an_endless_command_ends_with_its_reader(folder: Path) -> None:
    """Behind its tar it would write for ever; a reader that stops does not wait for it."""
    pairs = read_pairs(
        f"pipe:cat {folder / 'sa_000000.tar'}; while true; do echo; done",
        left_out=lambda problem: None,
    )
    assert next(pairs).key == "sa_0"
    pairs.close()


def test_broken_members_are_skips_and_the_rest_is_used(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [make.sample_files(k) for k in range(4)]
    files = [*good[0], ("sa_8.jpg", b"no photo"), ("sa_8.json", good[1][1][1]), *good[1]]
    files += [("alone.jpg", b"x"), ("notes.txt", b"x"), good[2][1], good[2][0], *good[3]]
    path = make.pack(tmp_path / "a.tar", files)
    skips = Skips(workers=0, max_fraction=1.0)
    loader = stream(
        settings(str(path), batch_size=4, shuffle_buffer=1, max_skip_fraction=1.0), skips=skips
    )
    epoch, _ = islice(loader, 2)
    assert keys([epoch]) == [f"sa_{k}" for k in range(4)]
    assert skips.totals()["bad_jpeg"] >= 1
    assert "a.tar: alone.jpg without its .json" in caplog.text


@pytest.mark.parametrize("scheme", ["", "pipe:cat "])
def test_a_cut_shard_gives_what_lies_before_the_cut(folder: Path, scheme: str) -> None:
    whole = (folder / "sa_000002.tar").read_bytes()
    second = whole.index(b"sa_21.jpg")
    data_end = len(whole.rstrip(b"\0"))
    for cut, left in ((second, 1), (second + 700, 1), (second - 600, 0), (data_end, 5)):
        (folder / "cut.tar").write_bytes(whole[:cut])
        problems: list[str] = []
        seen: list[str] = []
        with pytest.raises(OSError, match="cut"):
            pairs = read_pairs(f"{scheme}{folder / 'cut.tar'}", left_out=problems.append)
            seen.extend(pair.key for pair in pairs)
        assert len(seen) == left


def test_absurd_sizes_are_passed_over_without_memory(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam_train.data.storage.tape.MAX_MEMBER", 5000)
    files = [("sa_5.jpg", bytes(6000)), ("sa_5.json", b"{}"), *make.sample_files(1)]
    path = make.pack(tmp_path / "a.tar", files)
    problems: list[str] = []
    seen = [pair.key for pair in read_pairs(f"pipe:cat {path}", left_out=problems.append)]
    assert seen == ["sa_1"]
    assert any("sa_5.jpg: a file of more than" in problem for problem in problems)


def test_excluded_samples_do_not_come(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "exclude.txt"
    names.write_text("sa_000002.tar/sa_20\nsa_11\n")
    cfg = settings(str(folder), exclude=str(names), batch_size=1)
    seen = set(keys(list(islice(stream(cfg), 40))))
    assert len(seen) == 10
    assert not seen & {"sa_20", "sa_11"}
    cfg = settings(str(folder), include=str(names), batch_size=1)
    seen = set(keys(list(islice(stream(cfg), 8))))
    assert seen == {"sa_20", "sa_11"}


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [({"limit": 3}, r"set data\.limit=null"), ({"shuffle_buffer": 0}, "at least 1")],
)
def test_what_needs_an_index_is_refused(folder: Path, wrong: dict[str, Any], way_out: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(wrong))}.*{way_out}"):
        stream(settings(str(folder), **wrong))


@pytest.mark.parametrize("idle", [{"cache": True}, {"shuffle_window": 2}, {"index": "x.bin"}])
def test_what_has_no_effect_is_said(
    folder: Path, idle: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A recipe may have set it: the same samples come, and a line says so."""
    with caplog.at_level("INFO"):
        shards = open_stream(settings(str(folder), **idle), option="data.train")
    assert f"data.{next(iter(idle))} has no effect" in caplog.text
    assert shards.urls == open_stream(settings(str(folder)), option="data.train").urls


def test_a_command_without_stream_mode_is_told_the_way_out() -> None:
    cfg = DataConfig(train="pipe:cat x.tar", workers=0)
    with pytest.raises(UserError, match=r"data\.mode=stream"):
        SamDataModule(cfg, image_size=S, grid_size=R, seed=0).setup("fit")
    with pytest.raises(UserError, match=r"data\.mode=both"):
        check(DataConfig(mode="both"))
