"""Mixes of data sets: shares counted by hand, and batches beside those of each set alone."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from sam_train.data.config import DataConfig
from sam_train.data.datamodule import SamDataModule
from sam_train.data.feed.loader import make_train_loader
from sam_train.data.feed.mix import MixedOrder, open_mix, read_mix
from sam_train.data.feed.order import Order
from sam_train.data.shards.reader import open_shards
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.settings.compose import load_config
from sam_train.types import Batch

S, R = 32, 16


@pytest.fixture
def sets(shard: Callable[..., Path]) -> tuple[str, str]:
    """Shards of 7 and of 4 photos."""
    return str(shard(7, name="mine.tar")), str(shard(4, name="sa_1.tar", first=100))


def config(sets: tuple[str, str], *shares: str, **settings: Any) -> DataConfig:
    mix = [f"{path}:{share}" for path, share in zip(sets, shares, strict=False)]
    return DataConfig(mix=mix, batch_size=4, masks_per_image=3, workers=0, **settings)


def batches(cfg: DataConfig, count: int, **options: Any) -> list[Batch]:
    skips = Skips(workers=cfg.workers, max_fraction=1)
    loader = make_train_loader(
        open_mix(cfg), cfg, image_size=S, grid_size=R, seed=1, skips=skips, **options
    )
    return list(islice(loader, count))


@pytest.mark.parametrize("shares", [("0.8", "0.2"), ("1", "2"), ("0.333333", "0.666667")])
def test_each_set_has_its_share_and_goes_through_its_own_epochs(
    sets: tuple[str, str], shares: tuple[str, str]
) -> None:
    order = MixedOrder(open_mix(config(sets, *shares)), seed=3)
    n = 64 * 30
    places = [order.place(position) for position in range(n)]
    weights = [Fraction(share) for share in shares]
    for first, stop, weight in ((0, 7, weights[0]), (7, 11, weights[1])):
        own = [place for place in places if first <= place.index < stop]
        assert abs(len(own) - n * weight / sum(weights)) <= 1
        # Every epoch but the one that is under way has each sample once.
        seen = Counter((place.epoch, place.index) for place in own)
        assert set(seen.values()) == {1}
        epochs = len(own) // (stop - first)
        assert set(seen) >= {(e, i) for e in range(epochs) for i in range(first, stop)}
    # No rank of four reads a set alone, whatever part of the step is its own.
    for rank in range(5):
        own_share = sum(place.index < 7 for place in places[rank::5]) / len(places[rank::5])
        assert abs(own_share - weights[0] / sum(weights)) < 0.1


def test_a_mix_of_one_has_the_order_of_the_set_within_each_window(sets: tuple[str, str]) -> None:
    mixed = MixedOrder(open_mix(config(sets, "5")), seed=3)
    alone = Order(samples=7, seed=3)
    for window in (0, 5):
        span = range(64 * window, 64 * (window + 1))
        ours = [mixed.place(position) for position in span]
        assert Counter(ours) == Counter(alone.place(position) for position in span)
        assert ours != [alone.place(position) for position in span]


def test_ranks_workers_and_a_resume_divide_the_same_order(sets: tuple[str, str]) -> None:
    cfg = config(sets, "0.75", "0.25")
    whole = batches(cfg, 5)
    keys = [key for batch in whole for key in batch.keys]
    assert {key.partition("/")[0] for key in keys} == {"mine.tar", "sa_1.tar"}
    parts = [batches(cfg, 5, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        mine = [of_rank[step] for of_rank in parts]
        assert [key for b in mine for key in b.keys] == batch.keys
        assert torch.equal(torch.cat([b.points for b in mine]), batch.points)
    resumed = batches(replace(cfg, workers=1, start_method="fork"), 2, start=lambda: 12)
    for again, batch in zip(resumed, whole[3:], strict=True):
        assert again.keys == batch.keys
        assert torch.equal(again.images, batch.images)
        assert torch.equal(again.masks, batch.masks)


def test_an_unusable_sample_is_replaced_by_one_of_its_set(shard: Callable[..., Path]) -> None:
    bad = [("bad.jpg", b""), ("bad.json", b"")]
    sets = str(shard(2, *bad, name="mine.tar")), str(shard(3, *bad, name="sa_1.tar", first=9))
    cfg = config(sets, "0.5", "0.5")
    order = MixedOrder(open_mix(cfg), seed=1)
    wanted = ["mine.tar" if order.place(p).index < 3 else "sa_1.tar" for p in range(32)]
    keys = [key for batch in batches(cfg, 8) for key in batch.keys]
    assert [key.partition("/")[0] for key in keys] == wanted
    assert not {"mine.tar/bad", "sa_1.tar/bad"} & set(keys)


def test_the_last_number_is_the_share_and_the_command_line_takes_it() -> None:
    written = "coco:/data/my set:0.8,http://host:8080/sa_{000..009}.tar:.2,/a:b:1"
    mix = load_config([f"data.mix=[{written}]"]).data.mix
    assert [(part.source, part.share) for part in read_mix(mix)] == [
        ("coco:/data/my set", Fraction(2, 5)),
        ("http://host:8080/sa_{000..009}.tar", Fraction(1, 10)),
        ("/a:b", Fraction(1, 2)),
    ]
    (entry,) = read_mix([{"reader": "coco", "path": "/x", "share": 0.1}])
    assert entry.source == {"reader": "coco", "path": "/x"}


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (["/a:0.8", "/b:0"], r"share 0 of /b must be above 0"),
        (["/a:-1"], r"share -1 of /a must be above 0"),
        (["/a", "/b:0.2"], r"data\.mix: /a has no share: write SPEC:NUMBER"),
        (["/a:nan"], r"/a:nan has no share"),
        ([{"reader": "coco", "path": "/x"}], r"/x has no share"),
        (["/nowhere/mine:0.5"], r"data\.mix: /nowhere/mine does not exist"),
    ],
)
def test_what_a_mix_cannot_be_is_said(mix: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_mix(DataConfig(mix=mix))


@pytest.mark.parametrize("more", [{"mode": "stream"}, {"limit": 3}])
def test_settings_of_one_set_are_refused(sets: tuple[str, str], more: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"data\.{next(iter(more))}"):
        open_mix(config(sets, "1", "1", **more))


def test_a_run_says_what_it_draws_and_notices_other_shares(
    sets: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def data(*shares: str) -> SamDataModule:
        made = SamDataModule(
            config(sets, *shares, max_area_fraction=1.0), image_size=S, grid_size=R, seed=0
        )
        made.setup("fit")
        return made

    with caplog.at_level(logging.INFO):
        first = data("0.8", "0.2")
    assert "data.mix: 0.8 of the samples from" in caplog.text
    caplog.clear()
    # `fit` looks for a window before there is a trainer, which says how long the run is.
    early = SamDataModule(config(sets, "0.8", "0.2"), image_size=S, grid_size=R, seed=0)
    with caplog.at_level(logging.INFO):
        early.find_window()
        assert "passes in this run" not in caplog.text
        early.setup("fit")
    assert "sa_1.tar: 4 samples" in caplog.text
    batch = next(iter(first.train_dataloader()))
    assert len(batch.keys) == 4
    caplog.clear()
    data("0.8", "0.2").load_state_dict(first.state_dict())
    assert "order is another" not in caplog.text
    data("0.5", "0.5").load_state_dict(first.state_dict())
    assert "data.mix holds 11 samples in 2 shards" in caplog.text
    assert open_shards(sets[0], option="data.train").fingerprint != first._fingerprint
