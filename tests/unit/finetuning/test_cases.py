"""Which photos are one case, and that no case stands on both sides of a split."""

from __future__ import annotations

import pytest

from sam_train.errors import UserError
from sam_train.finetuning.cases import cases_of, only_case
from sam_train.finetuning.split import Split, split


def cases(names: list[str], **others: dict[str, str] | dict[str, bytes]) -> list[str]:
    arguments = {"groups": {}, "digests": {}} | others
    return list(cases_of(names, **arguments).values())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # Numbers of photos.
        (["d/img_001.png", "d/img_002.png"], ["d/img_001", "d/img_002"]),
        (["d/000000009.jpg", "d/000000025.jpg"], ["d/000000009", "d/000000025"]),
        # Tiles, slices and pages, however few cases there are.
        (["d/A_tile_1.png", "d/A_tile_2.png", "d/B_tile_1.png"], ["d/A", "d/A", "d/B"]),
        (["d/s1_x0_y0.png", "d/s1_x9_y0.png", "d/s2_x0_y0.png"], ["d/s1", "d/s1", "d/s2"]),
        (["d/a_p001.tif", "d/a_p002.tif", "d/b_p001.tif"], ["d/a", "d/a", "d/b"]),
        (["d/k1/slice_1.png", "d/k1/slice_2.png", "d/k2/slice_1.png"], ["d/k1", "d/k1", "d/k2"]),
        # Augmented copies.
        (["d/b_jpg.rf.3f2a.jpg", "d/b_jpg.rf.99aa.jpg", "d/c_jpg.rf.1.jpg"], ["d/b", "d/b", "d/c"]),
        # The tiles of a single slide are all there is.
        (["d/A_tile_1.png", "d/A_tile_2.png"], ["d/A_tile_1", "d/A_tile_2"]),
    ],
)
def test_cases_of_names(names: list[str], expected: list[str]) -> None:
    assert cases(names) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["d/A_tile_1.png", "d/A_tile_2.png"], "d/A"),
        (["d/scan7_slice000.png", "d/scan7_slice001.png"], "d/scan7"),
        (["d/A_tile_1.png", "d/B_tile_1.png"], ""),
        (["d/img_001.png", "d/img_002.png"], ""),
        (["d/A_tile_1.png"], ""),
    ],
)
def test_parts_of_one_case_are_told(names: list[str], expected: str) -> None:
    assert only_case(cases_of(names, groups={}, digests={})) == expected


def test_numbered_names_are_cases_where_there_are_enough() -> None:
    names = [f"d/patient{a}_{k:03}.png" for a in range(6) for k in range(3)]
    assert len(set(cases(names))) == 6
    # Classes have words for names, and are no cases.
    words = [
        f"d/{a}_{k:03}.png" for a in ("cat", "dog", "cow", "hen", "pig", "owl") for k in (1, 2)
    ]
    assert len(set(cases(words))) == 12
    # Three are too few: 012 may be the number of a photo.
    assert len(set(cases(names[:9]))) == 9


def test_equal_photos_and_groups_join_cases() -> None:
    names = ["d/a.png", "d/b.png", "d/c.png", "d/d.png"]
    found = cases(names, digests={"d/a.png": b"1", "d/b.png": b"2", "d/c.png": b"1"})
    assert found[0] == found[2] != found[1]
    found = cases(names, groups={"d/a.png": "scene", "d/d.png": "scene"})
    assert found[0] == found[3] != found[1]


def sides(names: list[str], groups: dict[str, str] | None = None) -> Split:
    return split(names, cases=cases_of(names, groups=groups or {}, digests={}))


def test_about_an_eighth_is_held_out_by_name_alone() -> None:
    names = [f"d/{k}.png" for k in range(200)]
    found = sides(names)
    assert len(found.val) == 30
    assert sorted([*found.train, *found.val]) == sorted(names)
    other = sides(names[::-1])
    assert set(other.val) == set(found.val)


def test_no_case_stands_on_both_sides() -> None:
    names = [f"d/slide{a}_tile_{k}.png" for a in range(8) for k in range(5 + a)]
    found = sides(names)
    left, right = (
        {name.partition("_tile")[0] for name in side} for side in (found.train, found.val)
    )
    assert not left & right
    assert 0.08 < len(found.val) / len(names) < 0.25
    assert "8 cases" in found.line()


@pytest.mark.parametrize("photos", [2, 3, 5])
def test_tiny_sets_hold_one_out(photos: int) -> None:
    found = sides([f"d/{k}.png" for k in range(photos)])
    assert (len(found.train), len(found.val)) == (photos - 1, 1)


def test_one_case_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"data\.val="):
        sides(["d/a.png"])
    with pytest.raises(UserError, match="one case"):
        sides(["d/a.png", "d/b.png"], groups={"d/a.png": "s", "d/b.png": "s"})
