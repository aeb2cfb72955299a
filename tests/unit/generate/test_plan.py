"""Who does what, written down once; and a journal that survives being killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sam_train.errors import UserError
from sam_train.generate.inputs import PhotoPlace
from sam_train.generate.journal import PhotoRecord, open_journal
from sam_train.generate.plan import FolderPlan, agree, make_plan, units_of
from sam_train.runtime.parts import Share


def plan(count: int = 10, *, parts: int = 1, **other: Any) -> FolderPlan:
    photos = [PhotoPlace(path=f"{k}.jpg") for k in range(count)]
    given = {"weights": "w", "settings": {"points_per_side": 4}, "samples_per_shard": 4, **other}
    return make_plan(photos, parts=parts, **given)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 12])
def test_every_photo_belongs_to_one_process(parts: int) -> None:
    units = units_of(plan(parts=parts))
    mine = [Share(index=k, count=parts).of(units) for k in range(parts)]
    photos = [k for part in mine for unit in part for k in range(unit.begin, unit.stop)]
    assert sorted(photos) == list(range(10))
    assert all(unit.stop - unit.begin <= 4 for unit in units)
    assert sum(bool(part) for part in mine) >= min(parts, 5)


def test_the_first_plan_counts(tmp_path: Path) -> None:
    first = agree(tmp_path, plan(parts=5))
    assert first.photos_per_unit == 2
    assert agree(tmp_path, plan(parts=1)) == first
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"count": 9}, "10 photos"),
        ({"weights": "v"}, "other weights"),
        ({"settings": {"points_per_side": 8}}, "points_per_side=4, not 8"),
    ],
)
def test_a_folder_is_of_one_model_and_setting(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    agree(tmp_path, plan())
    with pytest.raises(UserError, match=message):
        agree(tmp_path, plan(**other))


def test_a_journal_forgets_only_what_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "u.jsonl"
    for number in range(3):
        with open_journal(path) as journal:
            assert journal is not None
            assert sorted(journal.records) == list(range(number))
            journal.append(PhotoRecord(image_id=number, source=f"{number}.jpg", skipped="no"))
    whole = path.read_bytes()
    for cut in (1, 5):
        path.write_bytes(whole[:-cut])
        with open_journal(path) as journal:
            assert journal is not None
            assert sorted(journal.records) == [0, 1]
            journal.append(PhotoRecord(image_id=2, source="2.jpg", skipped="no"))
        with open_journal(path) as journal:
            assert journal is not None
            assert sorted(journal.records) == [0, 1, 2]


def test_two_processes_do_not_share_a_unit(tmp_path: Path) -> None:
    with open_journal(tmp_path / "u.jsonl") as mine:
        assert mine is not None
        with open_journal(tmp_path / "u.jsonl") as same:
            assert same is None
        with open_journal(tmp_path / "v.jsonl") as other:
            assert other is not None
    with open_journal(tmp_path / "u.jsonl") as again:
        assert again is not None
