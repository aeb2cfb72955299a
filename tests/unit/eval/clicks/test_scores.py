"""Sums to means: by hand, over ranks, and as text."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from scipy import stats

from sam_train.errors import UserError
from sam_train.eval.clicks.scores import ClickScores, ClickTally, comparison_table, short_interval
from sam_train.eval.frame.bootstrap import Interval
from sam_train.eval.frame.by_group import photo_sums


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


def test_scores_from_before_there_were_intervals_are_read() -> None:
    scores = tally_of([[0.25, 0.5]], predicted=[0.5], real=[0.5]).scores([1])
    raw = json.loads(scores.to_json())
    for name in ("box", "intervals", "groups", "grouped"):
        del raw[name]
    old = ClickScores.from_json(json.dumps(raw))
    assert (old.box, old.intervals, old.groups, old.grouped) == (None, {}, 0, False)
    assert old.miou == scores.miou


RANKS = [
    tally_of([[0.1, 0.2], [0.3, 0.4], [0.8, 0.9]], predicted=[0.5, 0.9], real=[0.4, 0.2]),
    tally_of([[0.4, 1.0]], predicted=[0.1], real=[0.7]),
    tally_of([], predicted=[], real=[]),
]
for rank, photos in enumerate(((0, 3), (1,), ())):
    # Two photos of one scene are on different ranks.
    for position in photos:
        RANKS[rank].photos += photo_sums(
            np.array([[0.1, 0.3, 0.7], [0.2, 0.9, 0.3]]) + 0.1 * position,
            owners=[0, 0],
            positions=[position],
            groups={0: "a", 1: "a"},
        )


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
        together.photos += part.photos
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
        assert scores.intervals == expected.intervals != {}
        assert scores.groups == 2
        assert scores.figures() == pytest.approx(expected.figures())
        for name, value in asdict(expected.calibration).items():
            assert getattr(scores.calibration, name) == pytest.approx(value), name


def test_files_from_before_there_were_intervals_are_still_read() -> None:
    scores = tally_of([[0.2, 0.4]], predicted=[0.5], real=[0.5]).scores([1, 2])
    old = json.loads(scores.to_json())
    for name in ("box", "intervals", "groups", "grouped"):
        del old[name]
    assert ClickScores.from_json(json.dumps(old)).miou == scores.miou


def with_photos(scenes: list[str | None], *, box: bool = True) -> ClickTally:
    """Three masks a photo; those of one scene are equally good, but for a little."""
    rng = np.random.default_rng(5)
    good: dict[str, float] = {}
    tally = ClickTally(rounds=2, boxes=box, images=len(scenes))
    for position, scene in enumerate(scenes):
        middle = good.setdefault(scene or f"photo {position}", rng.uniform(0.3, 0.9))
        values = middle + rng.uniform(-0.05, 0.05, (3, 4))
        add_photo(tally, values if box else values[:, :3], position=position, scene=scene)
    return tally


def add_photo(
    tally: ClickTally, values: npt.NDArray[np.float64], *, position: int, scene: str | None
) -> None:
    tally.iou.append(torch.from_numpy(values[:, :2]))
    tally.oracle.append(torch.from_numpy(values[:, 2]))
    if tally.boxes:
        tally.box.append(torch.from_numpy(values[:, 3]))
    tally.predicted.append(0.5)
    tally.real.append(0.5)
    tally.photos += photo_sums(
        values,
        owners=[0] * len(values),
        positions=[position],
        groups={} if scene is None else {position: scene},
    )


def test_intervals_are_those_of_scipy_over_scenes_not_photos() -> None:
    """Equally many masks a scene, so the mean over masks is the mean of the scenes' means."""
    scenes = [f"scene {k // 9}" for k in range(30 * 9)]
    tally = with_photos(list(scenes))
    scores = tally.scores([1, 2])
    means = torch.cat(tally.box).numpy().reshape(30, 27).mean(1)
    theirs = stats.bootstrap(
        (means,), np.mean, confidence_level=0.95, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    ends = scores.intervals["box"]
    assert scores.box == pytest.approx(means.mean())
    # Thirty are few: a bit wider than scipy's.
    wider = (ends.high - ends.low) / (theirs.high - theirs.low)
    assert 1.0 < wider < 1.12
    assert (ends.low + ends.high) / 2 == pytest.approx((theirs.low + theirs.high) / 2, abs=0.01)
    assert (scores.groups, scores.grouped) == (30, True)
    alone = with_photos(list(scenes))
    alone.photos = [replace(photo, group=None) for photo in alone.photos]
    narrow = alone.scores([1, 2])
    assert (narrow.groups, narrow.grouped) == (270, False)
    share = (narrow.intervals["box"].high - narrow.intervals["box"].low) / (ends.high - ends.low)
    assert share == pytest.approx(1 / 3, abs=0.06)  # nine photos a scene, all alike


def test_photos_without_a_group_count_alone_and_order_does_not_matter() -> None:
    scenes = ["a", None, "b", "a", None, "c"]
    tally = with_photos(scenes)
    scores = tally.scores([2])
    assert (scores.groups, scores.grouped) == (5, True)
    assert set(scores.intervals) == {"miou_2", "oracle", "box"}
    # Of so few groups the ends are the extremes, whatever is drawn: more for the order.
    many = with_photos([f"scene {k % 40}" for k in range(60)])
    in_order = many.scores([2]).intervals
    many.photos.reverse()
    assert many.scores([2]).intervals == in_order
    # One group is no spread.
    single = with_photos(["a", "a"]).scores([1])
    assert single.intervals == {}
    assert "no intervals" in single.basis()
    assert "nan" not in single.to_json().lower()


def test_what_people_read_has_the_intervals_beside_the_scores() -> None:
    scores = with_photos(["a", "b", "b", "c"]).scores([1, 2])
    assert ClickScores.from_json(scores.to_json()) == scores
    figures = scores.figures()
    for name, mean in scores.means().items():
        assert figures[f"{name}_low"] <= mean <= figures[f"{name}_high"]
    before = with_photos(["a", "b"], box=False).scores([1])
    before.intervals = {}
    lines = comparison_table({"before": before, "after": scores}).splitlines()
    assert lines[0].split() == ["1", "click", "oracle", "2", "clicks", "box"]
    assert lines[1].split()[3:] == ["-", "-"]
    assert lines[2].split() == ["after", *(f"{mean:.3f}" for mean in scores.means().values())]
    assert lines[3].split()[:2] == ["95", "%"]
    for said, name in zip(lines[3].split()[2:], scores.means(), strict=True):
        ends = scores.intervals[name]
        assert said == f"{ends.low:.3f}-{ends.high:.3f}".replace("0.", ".")
    assert len({len(line) for line in lines}) == 1
    assert scores.basis() == "95 % intervals by resampling 3 groups of images (groups.tsv)"
    assert f"  box: {scores.box:.3f} (." in scores.line()
    assert scores.line().startswith(f"1: {scores.miou[1]:.3f} (.")


def test_a_perfect_end_of_an_interval_fits_its_column() -> None:
    assert short_interval(Interval(low=0.98149, high=0.99996)) == ".981-1.00"
    assert short_interval(Interval(low=0.0, high=0.0504)) == ".000-.050"
