"""Sums to means: by hand, over ranks, and as text."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from sam_train.errors import UserError
from sam_train.eval.scores import ClickScores, ClickTally, comparison_table


def tally_of(iou: list[list[float]], *, predicted: list[float], real: list[float]) -> ClickTally:
    tally = ClickTally(rounds=len(iou[0]) if iou else 2, images=1)
    if iou:
        table = torch.tensor(iou, dtype=torch.float64)
        tally.iou.append(table)
        tally.oracle.append(table.max(1).values)
    tally.predicted += predicted
    tally.real += real
    return tally


def test_means_calibration_and_correlation_by_hand() -> None:
    predicted, real = [0.05, 0.62, 0.68, 1.3, -0.2], [0.25, 0.5, 0.9, 1.0, 0.0]
    tally = tally_of([[0.2, 0.4], [0.6, 0.8]], predicted=predicted, real=real)
    scores = tally.scores([1, 2])
    assert scores.miou == pytest.approx({1: 0.4, 2: 0.6})
    assert scores.oracle == pytest.approx(0.6)
    c = scores.calibration
    assert c.count == [2, 0, 0, 0, 0, 0, 2, 0, 0, 1]
    assert c.predicted[6] == pytest.approx(0.65)
    assert c.real[6] == pytest.approx(0.7)
    assert c.mean_absolute_error == pytest.approx((0.2 + 0.12 + 0.22 + 0.3 + 0.2) / 5)
    # Bins: |(-.15 - .25)| + |1.3 - 1.4| + |1.3 - 1| over five masks.
    assert c.expected_error == pytest.approx((0.4 + 0.1 + 0.3) / 5)
    assert c.correlation == pytest.approx(np.corrcoef(predicted, real)[0, 1])


def test_no_mask_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"data\.val gave no mask"):
        ClickTally(rounds=2).scores([1])


def test_json_and_tables() -> None:
    scores = tally_of([[0.2, 0.4], [0.6, 0.8]], predicted=[0.5], real=[0.5]).scores([1, 2])
    assert ClickScores.from_json(scores.to_json()) == scores
    assert "over 2 masks of 1 images" in scores.table()
    lines = comparison_table({"untrained": scores, "trained": scores}).splitlines()
    assert [line.split() for line in lines] == [
        ["1", "click", "oracle", "2", "clicks"],
        ["untrained", "0.400", "0.600", "0.600"],
        ["trained", "0.400", "0.600", "0.600"],
    ]


RANKS = [
    tally_of([[0.1, 0.2], [0.3, 0.4], [0.8, 0.9]], predicted=[0.5, 0.9], real=[0.4, 0.2]),
    tally_of([[0.4, 1.0]], predicted=[0.1], real=[0.7]),
    tally_of([], predicted=[], real=[]),
]


def _one_rank(rank: int, store: Path, answers: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(RANKS))
    (answers / f"{rank}.json").write_text(RANKS[rank].scores([1, 2]).to_json())
    dist.destroy_process_group()


def test_ranks_add_up_to_one_process_with_all_masks(tmp_path: Path) -> None:
    together = ClickTally(rounds=2)
    for part in RANKS:
        together.images += part.images
        together.iou += part.iou
        together.oracle += part.oracle
        together.predicted += part.predicted
        together.real += part.real
    expected = together.scores([1, 2])
    # Forked: the children need no second import of torch.
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_one_rank, args=(rank, tmp_path / "store", tmp_path), daemon=True)
        for rank in range(len(RANKS))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for rank in range(len(RANKS)):
        scores = ClickScores.from_json((tmp_path / f"{rank}.json").read_text())
        assert scores.masks == 4
        assert scores.images == 3
        assert scores.miou == pytest.approx(expected.miou)
        assert scores.oracle == pytest.approx(expected.oracle)
        assert scores.calibration.count == expected.calibration.count
        assert scores.calibration.correlation == pytest.approx(expected.calibration.correlation)
