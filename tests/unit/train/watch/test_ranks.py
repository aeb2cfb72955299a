"""The slowest process and the one that waits most; the settings' limits."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
import torch

from sam_train.errors import UserError
from sam_train.train.watch.config import HealthConfig, check
from sam_train.train.watch.ranks import RankWatch, Stopwatch, compare, shares


def test_the_slowest_is_measured_by_the_median() -> None:
    assert shares([1.0, 3.0, 1.5, 2.0]) == pytest.approx([2 / 3, 2.0, 1.0, 4 / 3])
    figures = compare(shares([1.0, 3.0, 1.5, 2.0]), [0.1, 0.0, 0.4, 0.2])
    assert (figures.slowest, figures.waiting) == (1, 2)
    assert figures.slow_share == 2.0
    assert figures.data_wait == 0.4
    assert shares([1.0, 1.5]) == [1.0, 1.5]
    assert shares([0.0, 0.0]) == [1.0, 1.0]
    assert set(figures.columns()) == {
        "slowest_rank",
        "slowest_rank_share",
        "data_wait_rank",
        "data_wait_max",
    }


def test_a_slow_rank_is_named_once_and_not_for_a_single_hiccup(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logging.getLogger("sam_train"), "propagate", True)
    watch = RankWatch(HealthConfig(slow_rank=1.25, data_wait=0.2), run_dir=tmp_path)
    slow = compare([1.0, 1.4], [0.0, 0.0])
    well = compare([1.0, 1.1], [0.0, 0.0])
    other = compare([1.4, 1.0], [0.0, 0.0])
    with caplog.at_level(logging.WARNING, logger="sam_train"):
        for figures in (slow, well, slow, other):
            watch.judge(figures)
        assert caplog.messages == []
        for figures in (slow, slow, slow, slow):
            watch.judge(figures)
        (message,) = caplog.messages
        assert "rank 1 is slow" in message
        assert "1.40 times" in message
        caplog.clear()
        late = compare([1.0, 1.0], [0.5, 0.0])
        watch.judge(late)
        watch.judge(late)
        (message,) = caplog.messages
        assert "rank 0 waits for photos 50 %" in message
        caplog.clear()
        never = RankWatch(HealthConfig(slow_rank=0, data_wait=0), run_dir=tmp_path)
        for _ in range(3):
            never.judge(compare([1.0, 9.0], [0.9, 0.0]))
        assert caplog.messages == []


def test_every_rank_has_its_figures_in_a_file_and_the_worst_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logging.getLogger("sam_train"), "propagate", True)
    watch = RankWatch(HealthConfig(), run_dir=tmp_path)
    with caplog.at_level(logging.INFO, logger="sam_train"):
        watch.summarise()
        assert caplog.messages == []
        watch.note([1.0, 1.5], [0.25, 0.0])
        watch.note([1.0, 1.0], [0.5, 0.125])
        watch.summarise()
    assert (tmp_path / "ranks.csv").read_text().splitlines() == [
        "rank,host,work,data_wait,work_mean,data_wait_mean",
        "0,,1,0.5,1,0.375",
        "1,,1,0.125,1.25,0.0625",
    ]
    (message,) = caplog.messages
    assert "rank 1 was the slowest, at 1.25 times" in message
    assert "rank 0 waited most for photos, 38 %" in message


def test_a_stopwatch_gives_seconds_per_unit_since_the_last_reading() -> None:
    watch = Stopwatch()
    cpu = torch.device("cpu")
    for units in (1, 3):
        with watch.measure(units, device=cpu):
            time.sleep(0.02)
    assert watch.read() >= 0.01
    assert watch.read() == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_nonfinite": 0},
        {"hang_minutes": -1.0},
        {"slow_rank": 1.0},
        {"data_wait": float("nan")},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    check(HealthConfig())
    check(HealthConfig(hang_minutes=0, slow_rank=0, data_wait=0))
    (name,) = wrong
    with pytest.raises(UserError, match=f"health.{name}="):
        check(HealthConfig(**wrong))  # type: ignore[arg-type]
