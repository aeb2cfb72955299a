"""Sums to means: by hand, over ranks, and as text."""

from __future__ import annotations

import multiprocessing
from dataclasses import asdict
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


def test_figures_for_loggers() -> None:
    scores = tally_of([[0.2, 0.4], [0.6, 0.8]], predicted=[0.5, 0.9], real=[0.5, 0.7]).scores([2])
    expected = {"miou_2": 0.6, "oracle": 0.6, "iou_error": 0.1, "iou_correlation": 1.0}
    figures = scores.figures()
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert "miou_1" not in figures


def test_the_table_has_a_line_for_each_bin_that_holds_a_mask() -> None:
    predicted, real = [0.0, 0.1, 0.95, 1.0], [0.5, 0.25, 0.75, 1.0]
    tally = tally_of([[0.25, 0.5]], predicted=predicted, real=real)
    text = tally.scores([1, 2]).table()
    assert "over 1 masks of 1 images" in text
    lines = text.splitlines()
    bins = lines[lines.index("predicted IoU  masks  mean predicted  mean real") :]
    assert bins[1:] == [
        "   0.0 to 0.1      1           0.000      0.500",
        "   0.1 to 0.2      1           0.100      0.250",
        "   0.9 to 1.0      2           0.975      0.875",
        "mean absolute error 0.212, expected calibration error 0.212, "
        f"correlation {np.corrcoef(predicted, real)[0, 1]:.3f}",
    ]


def test_a_row_without_a_number_of_clicks_shows_a_dash() -> None:
    first = tally_of([[0.25, 0.5]], predicted=[0.5], real=[0.5]).scores([1])
    second = tally_of([[0.25, 0.5]], predicted=[0.5], real=[0.5]).scores([2])
    lines = comparison_table({"a": first, "longer": second}).splitlines()
    assert lines == [
        "         1 click    oracle  2 clicks".rjust(36),
        "a          0.250     0.500         -",
        "longer         -     0.500     0.500",
    ]


def test_bins_end_below_the_next_tenth_and_outliers_go_to_the_ends() -> None:
    predicted = [-3.0, 0.0, 0.0999, 0.1, 0.5, 0.8999, 0.9, 1.0, 7.0]
    scores = tally_of([[0.5, 0.5]], predicted=predicted, real=[0.5] * 9).scores([1])
    assert scores.calibration.count == [3, 1, 0, 0, 0, 1, 0, 0, 1, 3]
    # Means of the bin keep the predictions as they were, unclamped.
    assert scores.calibration.predicted[0] == pytest.approx((-3 + 0 + 0.0999) / 3)
    assert scores.calibration.real == pytest.approx(
        [0.5 if n else 0 for n in scores.calibration.count]
    )


@pytest.mark.parametrize("constant", ["predicted", "real"])
def test_what_does_not_vary_has_no_correlation(constant: str) -> None:
    values = {"predicted": [0.1, 0.5, 0.6], "real": [0.2, 0.4, 0.9]} | {constant: [0.5] * 3}
    tally = tally_of([[0.5, 0.5]], predicted=values["predicted"], real=values["real"])
    assert tally.scores([1]).calibration.correlation == 0.0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_small_spread_is_a_correlation_all_the_same(sign: int) -> None:
    """Variances of 1e-10 each: far above the noise of float64."""
    predicted = [0.5 + 1e-5 * k for k in (-1, 0, 1)]
    real = [0.5 + sign * 1e-5 * k for k in (-1, 0, 1)]
    calibration = tally_of([[0.5, 0.5]], predicted=predicted, real=real).scores([1]).calibration
    assert calibration.correlation == pytest.approx(sign, abs=1e-4)


def test_json_is_for_people_too() -> None:
    text = tally_of([[0.25, 0.5]], predicted=[0.5], real=[0.5]).scores([1]).to_json()
    assert text.startswith('{\n  "miou": {\n    "1": 0.25\n  },\n') and text.endswith("}\n")


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
        assert scores.figures() == pytest.approx(expected.figures())
        for name, value in asdict(expected.calibration).items():
            assert getattr(scores.calibration, name) == pytest.approx(value), name
