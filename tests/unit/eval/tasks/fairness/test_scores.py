"""mIoU by group from records written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from sam_train.eval.config import EvalConfig
from sam_train.eval.frame.records import Record
from sam_train.eval.tasks.fairness.scores import draw_groups, result_of, score
from sam_train.settings.compose import load_config


def photo(*masks: tuple[str, float, float]) -> Record:
    """Masks of (age, IoU at 1 point, IoU at 3 points)."""
    return {
        "groups": [{"age": age} if age else {"tone": "1"} for age, _, _ in masks],
        "iou": [[one, 0.0, three] for _, one, three in masks],
    }


RECORDS = [
    photo(("old", 0.2, 0.6), ("young", 0.5, 0.9)),
    photo(("young", 0.7, 0.8), ("young", 0.6, 1.0), ("", 0.1, 0.1)),
]


def test_means_are_over_masks_of_the_group() -> None:
    scores = score(RECORDS, columns=["age"], points=[1, 3], shared=EvalConfig(bootstrap=0))
    old, young = scores
    assert (old.name, old.images, old.masks) == ("age: old", 1, 1)
    assert old.miou == {1: 0.2, 3: 0.6}
    assert (young.images, young.masks) == (2, 3)
    assert young.miou[1] == pytest.approx(0.6)
    assert young.miou[3] == pytest.approx(0.9)


def test_an_interval_is_scipys() -> None:
    """One mask to a photo: the plain percentile bootstrap of the mean."""
    values = np.random.default_rng(0).beta(2, 3, 80)
    records = [photo(("old", value, 0.0)) for value in values]
    (old,) = score(records, columns=["age"], points=[1], shared=EvalConfig(bootstrap=20_000))
    known = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert old.ends[1].low == pytest.approx(known.low, abs=2e-3)
    assert old.ends[1].high == pytest.approx(known.high, abs=2e-3)


def test_one_photo_has_no_interval() -> None:
    scores = score(RECORDS, columns=["age", "tone"], points=[1], shared=EvalConfig())
    assert [bool(each.ends) for each in scores] == [False, True, False]


def test_groups_are_sorted_as_numbers() -> None:
    record = {"groups": [{"tone": tone} for tone in ("10", "2", "x", "1")], "iou": [[0.5]] * 4}
    scores = score([record], columns=["tone"], points=[1], shared=EvalConfig())
    assert [each.group for each in scores] == ["1", "2", "10", "x"]


def test_the_table_says_which_intervals_are_apart(tmp_path: Path) -> None:
    apart = [photo(("old", 0.2, 0.6), ("young", 0.5, 0.6)) for _ in range(4)]
    cfg = load_config(["fairness.points=[1,3]"])
    scores = score(apart, columns=["age"], points=[1, 3], shared=cfg.eval)
    result = result_of(scores, cfg=cfg)
    assert any(note.endswith("at 1 point: old and young") for note in result.notes)
    assert not any("at 3 points" in note for note in result.notes)
    assert any("fewer than 30 images" in note for note in result.notes)
    assert result.figures["age/old/miou_1_high"] == pytest.approx(0.2)
    published = {row.name: row.values for row in result.rows if row.source.startswith("paper")}
    assert published["age: older"]["low 1"] == pytest.approx(0.562)
    draw_groups(scores, tmp_path / "groups.png", confidence=0.95)
    with Image.open(tmp_path / "groups.png") as image:
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20
