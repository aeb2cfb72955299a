import numpy as np
import pytest

from sam_train.eval.tasks.edges.counts import ImageCounts
from sam_train.eval.tasks.edges.figures import (
    Curve,
    average_precision,
    best_point,
    curve_of,
    f_measure,
    figures_of,
    recall_at,
)


def curve(recall: list[float], precision: list[float]) -> Curve:
    r, p = np.array(recall), np.array(precision)
    return Curve(threshold=np.arange(r.size) / 10, recall=r, precision=p, f=f_measure(r, p))


def counts(name: str, matched: list[int], edges: list[int]) -> ImageCounts:
    return ImageCounts(
        name=name,
        thresholds=[0.25, 0.5, 0.75],
        truth_matched=matched,
        truth=[10, 10, 10],
        edges_matched=matched,
        edges=edges,
    )


def test_the_best_point_may_lie_between_thresholds() -> None:
    best = best_point(curve([1.0, 0.2], [0.2, 1.0]))
    # F along that line is 2 r p / 1.2 and largest where r = p = 0.6; 99 steps miss it narrowly.
    assert best.f == pytest.approx(0.6, abs=1e-4)
    assert best.threshold == pytest.approx(0.05, abs=1e-3)


def test_the_first_of_equal_points_is_taken() -> None:
    assert best_point(curve([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])).threshold == 0.0


def test_one_threshold() -> None:
    one = curve([0.4], [0.6])
    assert best_point(one).f == pytest.approx(0.48)
    assert average_precision(one) == 0.0
    assert recall_at(one) == 0.4


def test_average_precision_counts_nothing_beyond_the_ends() -> None:
    # Recalls 0.2, 0.21, ..., 0.4: 21 of the 101, all at precision 0.5.
    assert average_precision(curve([0.4, 0.2], [0.5, 0.5])) == pytest.approx(21 * 0.5 / 100)


def test_recall_at_half_precision() -> None:
    assert recall_at(curve([0.9, 0.5], [0.4, 0.8])) == pytest.approx(0.8)
    assert recall_at(curve([0.9, 0.5], [0.7, 0.8])) == 0.9  # always above: the lowest there is
    assert recall_at(curve([0.9, 0.5], [0.1, 0.3])) == 0.0
    # Thresholds above every value find nothing: they pull neither end of the curve down.
    assert recall_at(curve([0.9, 0.5, 0.0], [0.7, 0.8, 0.0])) == 0.9
    assert recall_at(curve([0.0], [0.0])) == 0.0


def test_equal_recalls_use_the_last_as_the_official_program_did() -> None:
    assert average_precision(curve([1.0, 0.0, 0.0], [1.0, 0.25, 1.0])) == pytest.approx(1.01)


def test_dataset_and_image_scale() -> None:
    easy = counts("easy", [10, 8, 2], [40, 8, 2])
    hard = counts("hard", [9, 3, 0], [10, 10, 0])
    figures = figures_of([easy, hard])
    # Each at its own best: easy at 0.5 (8 of 10, 8 of 8), hard at 0.25 (9 of 10, 9 of 10).
    assert figures.ois.recall == 17 / 20
    assert figures.ois.precision == 17 / 18
    assert figures.curve.recall.tolist() == [19 / 20, 11 / 20, 2 / 20]
    assert figures.curve.precision.tolist() == [19 / 50, 11 / 18, 1.0]
    assert figures.ods.f < figures.ois.f
    assert figures.images["hard"].threshold == 0.25


def test_nothing_found_and_nothing_to_find() -> None:
    nothing = curve_of([0.5], np.zeros((4, 1), dtype=np.int64))
    assert (nothing.recall[0], nothing.precision[0], nothing.f[0]) == (0.0, 0.0, 0.0)
