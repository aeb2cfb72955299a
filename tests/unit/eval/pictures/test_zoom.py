"""The part of a photo that a filmstrip shows."""

from __future__ import annotations

import numpy as np
import pytest

from sam_train.eval.pictures.filmstrip import CELL, FilmRow, Frame, Mark, filmstrip
from sam_train.eval.pictures.zoom import closer


def square(side: int, *, at: tuple[int, int], size: int = 200) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[at[0] : at[0] + side, at[1] : at[1] + side] = True
    return mask


def test_a_small_object_is_seen_with_its_surroundings() -> None:
    view = closer(square(10, at=(100, 60)), [(64.0, 104.0)])
    assert view is not None
    # Ten pixels and three quarters of that on both sides.
    assert (view.height, view.width) == (25, 25)
    assert view.of(square(10, at=(100, 60))).sum() == 100
    assert view.top + 12 == pytest.approx(105, abs=1)


def test_a_view_has_the_photos_proportions_and_stays_inside() -> None:
    mask = np.zeros((100, 300), dtype=bool)
    mask[:6, :6] = True
    view = closer(mask, [])
    assert view is not None
    assert (view.top, view.left) == (0, 0)
    assert view.width == pytest.approx(3 * view.height, abs=1)


@pytest.mark.parametrize(
    ("side", "points"), [(120, []), (10, [(5.0, 5.0), (195.0, 195.0)]), (0, [])]
)
def test_large_objects_and_far_clicks_leave_the_photo_whole(
    side: int, points: list[tuple[float, float]]
) -> None:
    assert closer(square(side, at=(20, 20)), points) is None


def test_a_click_no_longer_covers_a_small_object(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = square(8, at=(100, 100))
    frame = Frame(mask=~truth, iou=0.0, clicks=[Mark(x=103, y=103, foreground=True)])
    row = FilmRow(image=np.zeros((200, 200, 3), dtype=np.uint8), truth=truth, frames=[frame])

    def outline() -> int:
        """Pixels of the frame's cell in the colour of the truth's outline."""
        cell = np.asarray(filmstrip([row]))[:, -CELL - 14 :].astype(int)
        return int(((cell[..., 0] > 150) & (cell[..., 0] > 2 * cell[..., 2])).sum())

    seen = outline()
    # In a whole photo the object has 9 of the cell's 224 pixels, and the marker 13.
    monkeypatch.setattr("sam_train.eval.pictures.filmstrip.closer", lambda truth, points: None)
    assert seen > 150 > 10 * outline()
