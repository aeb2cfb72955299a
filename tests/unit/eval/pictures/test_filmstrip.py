"""Where things are on a filmstrip, found by looking at its pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from sam_train.eval.pictures.filmstrip import GREEN, RED, FilmRow, Frame, Mark, filmstrip

GREY = 120


def row(width: int, height: int, *, frames: list[Frame]) -> FilmRow:
    return FilmRow(
        image=np.full((height, width, 3), GREY, dtype=np.uint8),
        truth=np.zeros((height, width), dtype=bool),
        frames=frames,
    )


def empty(width: int, height: int) -> npt.NDArray[np.bool_]:
    return np.zeros((height, width), dtype=bool)


def cells(picture: Image.Image) -> list[npt.NDArray[np.uint8]]:
    """The photos on the page, left to right: large patches that are not paper."""
    pixels = np.asarray(picture)
    labels, _ = ndimage.label((pixels < 200).any(axis=2), structure=np.ones((3, 3)))
    found = [place for place in ndimage.find_objects(labels) if _area(place) > 40 * 40]
    found.sort(key=lambda place: (place[0].start, place[1].start))
    return [pixels[place] for place in found]


def _area(place: tuple[slice, slice]) -> int:
    return (place[0].stop - place[0].start) * (place[1].stop - place[1].start)


def centre_of(cell: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[float, float]:
    """x, y of a colour as fractions of the cell."""
    near = np.abs(cell.astype(int) - colour).max(axis=2) < 30
    assert near.any()
    y, x = ndimage.center_of_mass(near)
    return (x + 0.5) / cell.shape[1], (y + 0.5) / cell.shape[0]


@pytest.mark.parametrize(("width", "height"), [(200, 100), (90, 300), (1500, 1000), (24, 24)])
def test_clicks_are_drawn_where_they_were_given(width: int, height: int) -> None:
    good = Mark(x=0.25 * width, y=0.7 * height, foreground=True)
    bad = Mark(x=0.75 * width, y=0.3 * height, foreground=False, new=False)
    frame = Frame(mask=empty(width, height), iou=0.0, clicks=[good, bad])
    picture = filmstrip([row(width, height, frames=[frame])])
    image, truth, drawn = cells(picture)
    assert image.shape == truth.shape == drawn.shape
    assert drawn.shape[1] / drawn.shape[0] == pytest.approx(width / height, rel=0.02)
    for mark, colour in ((good, GREEN), (bad, RED)):
        x, y = centre_of(drawn, colour)
        assert x == pytest.approx((mark.x + 0.5) / width, abs=0.012)
        assert y == pytest.approx((mark.y + 0.5) / height, abs=0.012)
    assert (image == GREY).all()


def test_mask_truth_and_box_lie_on_the_photo() -> None:
    width, height = 160, 80
    left = empty(width, height)
    left[:, :40] = True
    frame = Frame(mask=left, iou=0.5, box=(100.0, 20.0, 139.0, 59.0))
    film = row(width, height, frames=[frame])
    film.truth[60:] = True
    _, truth, drawn = cells(filmstrip([film]))
    is_blue = (drawn[..., 2].astype(int) - drawn[..., 1]) > 30
    assert is_blue[:, : drawn.shape[1] * 23 // 100].mean() > 0.95
    assert is_blue[:, drawn.shape[1] * 27 // 100 :].mean() < 0.01
    is_orange = (truth[..., 0].astype(int) - truth[..., 2]) > 40
    assert is_orange[truth.shape[0] * 77 // 100 :].mean() > 0.95
    assert is_orange[: truth.shape[0] * 73 // 100].mean() < 0.01
    red, green, blue = drawn.astype(int).transpose(2, 0, 1)
    y, x = np.nonzero((green - red > 40) & (green - blue > 40))
    edges = (x.min() / drawn.shape[1], y.min() / drawn.shape[0],
             (x.max() + 1) / drawn.shape[1], (y.max() + 1) / drawn.shape[0])  # fmt: skip
    # The last column and row of a box are part of it.
    assert edges == pytest.approx((100 / 160, 20 / 80, 140 / 160, 60 / 80), abs=0.015)


def test_rows_of_different_shape_and_length_share_a_page() -> None:
    def frames(width: int, height: int, number: int) -> list[Frame]:
        return [Frame(mask=empty(width, height), iou=0.1 * n) for n in range(number)]

    rows = [row(100, 60, frames=frames(100, 60, 3)), row(50, 90, frames=frames(50, 90, 1))]
    shapes = [cell.shape[:2] for cell in cells(filmstrip(rows, caption="both"))]
    assert len(shapes) == 5 + 3
    assert shapes[0][1] > shapes[0][0]
    assert shapes[-1][1] < shapes[-1][0]


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        filmstrip([])
