"""Figures of the points task by hand, and against `evaluate_clicks`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sam_train.errors import UserError
from sam_train.eval.config import EvalConfig
from sam_train.eval.tasks.points.config import PointsConfig, check
from sam_train.eval.tasks.points.scores import average, result_of, score
from sam_train.settings.run import RunConfig


def record(name: str, iou: list[list[float]], oracle: list[float]) -> dict[str, Any]:
    played = {"iou": iou, "oracle": oracle}
    return {"key": f"{name}/x", "dataset": name, "centre": played, "random": played}


POINTS = PointsConfig(clicks=[1, 2], noc=[85], noc_clicks=4)
A = [
    record("a", [[0.5, 0.9, 0.9, 0.9], [0.1, 0.2, 0.3, 0.84]], [0.6, 0.4]),
    record("a", [[0.9, 0.8, 1.0, 1.0]], [0.9]),
]
B = [record("b", [[0.2, 0.4, 0.6, 0.85]], [0.3])]


def test_means_over_masks_then_over_data_sets() -> None:
    shared = EvalConfig(bootstrap=0)
    scores = [
        score(records, name=name, first="centre", points=POINTS, shared=shared)
        for name, records in (("a", A), ("b", B))
    ]
    assert (scores[0].images, scores[0].masks) == (2, 3)
    assert scores[0].figures == pytest.approx(
        {
            "miou_1": 1.5 / 3,
            "miou_2": 1.9 / 3,
            "oracle": 1.9 / 3,
            "noc_85": (2 + 4 + 1) / 3,
            "never_85": 1 / 3,
        }
    )
    assert scores[1].figures["noc_85"] == 4
    assert scores[1].figures["never_85"] == 0
    both = average(scores)
    assert both.figures["miou_1"] == pytest.approx((0.5 + 0.2) / 2)
    assert both.curve == pytest.approx([0.35, (1.9 / 3 + 0.4) / 2])
    assert both.masks == 4


def test_the_table_and_its_intervals() -> None:
    cfg = RunConfig(points=PointsConfig(clicks=[1, 2], noc=[85], noc_clicks=4))
    scores = [
        score(A, name="a", first=first, points=cfg.points, shared=cfg.eval)
        for first in ("centre", "random")
    ]
    result = result_of(scores, cfg=cfg)
    assert [row.name for row in result.rows] == [
        "a", "average", "a, random first", "average, random first", "SAM ViT-H, 23 data sets",
    ]  # fmt: skip
    columns = ["images", "masks", "1 click", "low", "high", "oracle", "2 clicks", "NoC@85"]
    assert result.columns == columns
    values = result.rows[0].values
    assert values["1 click"] == pytest.approx(0.5)
    # Two photos: the first alone, both, or the second alone.
    assert (values["low"], values["high"]) == pytest.approx((0.3, 0.9))
    assert result.figures["miou_1"] == result.figures["a/miou_1"] == pytest.approx(0.5)
    assert result.figures["miou_1_random"] == result.figures["miou_1"]
    assert result.rows[-1].values == {"1 click": 0.581, "5 clicks": 0.813}


def test_data_sets_are_resampled_independently() -> None:
    rng = np.random.default_rng(0)
    records = [record("a", [[v, v, v, v]], [v]) for v in rng.random(40)]
    shared = EvalConfig(bootstrap=4000)
    scores = [
        score(records, name=name, first="centre", points=POINTS, shared=shared) for name in "ab"
    ]
    spread = [each.resampled["miou_1"].std() for each in (*scores, average(scores))]
    assert spread[2] == pytest.approx(spread[0] / 2**0.5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"clicks": []}, "points.clicks"),
        ({"clicks": [0, 1]}, "points.clicks"),
        ({"first": []}, "points.first=.*is empty"),
        ({"first": ["center"]}, "center is not one; use centre, random"),
        ({"noc": [0]}, "points.noc"),
        ({"noc_clicks": 0}, "points.noc_clicks"),
        ({"film_rows": -1}, "points.film_rows"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(PointsConfig(**settings))
