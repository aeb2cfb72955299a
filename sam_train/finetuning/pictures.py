"""Pictures of a fine-tuning: ten samples with their masks, and objects before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam_train.data.sample.decode import open_entry, to_picture
from sam_train.data.sample.sheet import arranged, tile_of
from sam_train.data.shards.reader import Shards
from sam_train.eval.pictures.filmstrip import FilmRow, Frame, Mark, filmstrip
from sam_train.finetuning.look import Look
from sam_train.finetuning.objects import Answer, Object, decode
from sam_train.masks.frame import InputFrame

SAMPLES, COLUMNS = 10, 5
_CELL = 300
"""Longest side of a sample on its sheet."""
_TITLES = ["before: 1 click", "after: 1 click", "before: box", "after: box"]
_LARGEST = 1024
"""Longest side of a photo in pictures of objects: a small object keeps its pixels."""

Pixels = npt.NDArray[np.uint8]


def draw_look(shards: Shards, found: Look, path: Path) -> None:
    """Draw ten photos, evenly over the data set, with their masks in colours."""
    number = min(SAMPLES, len(found.seen))
    chosen = np.linspace(0, len(found.seen) - 1, number).round().astype(int)
    tiles = [
        tile_of(shards, found.seen[k].sample, side=_CELL, enlarge=True)
        for k in np.unique(chosen).tolist()
    ]
    arranged(tiles, columns=min(COLUMNS, len(tiles))).save(path, quality=90)


def pick(after: Mapping[int, Object], before: Mapping[int, Object]) -> list[int]:
    """Choose objects to show: the four worst after a click, four middle ones, two that gained most.

    Returns:
        Mask ids, the worst first.
    """
    scored = {
        number: one.clicked.iou
        for number, one in after.items()
        if one.clicked is not None and number in before and before[number].clicked is not None
    }
    ranked = sorted(scored, key=lambda number: (scored[number], number))
    middle = ranked[max(0, len(ranked) // 2 - 2) : len(ranked) // 2 + 2]
    gains = {n: scored[n] - (before[n].clicked or _NOTHING).iou for n in ranked}
    gained = sorted(ranked, key=lambda number: (-gains[number], number))[:2]
    # A dict keeps the first of equal ones, in order.
    return list(dict.fromkeys([*ranked[:4], *middle, *gained]))


_NOTHING = Answer(iou=0.0, rle={}, predicted_iou=0.0)


def draw_objects(
    shards: Shards,
    numbers: Sequence[int],
    *,
    before: Mapping[int, Object],
    after: Mapping[int, Object],
    path: Path,
) -> None:
    """Draw objects before and after, by a click and by their box, each in its own row.

    Args:
        shards: those of data.val.
        numbers: mask ids.
        before, after: the answers.
        path: of the picture.
    """
    rows = [_row(shards, before[n], after[n]) for n in numbers]
    if rows:
        caption = "the worst first, then middle ones and those that gained most"
        filmstrip(rows, titles=_TITLES, caption=caption).save(path, quality=90)


def _row(shards: Shards, before: Object, after: Object) -> FilmRow:
    photo = to_picture(open_entry(shards.read(after.position)))
    original = photo.height, photo.width
    frame = InputFrame(original=original, side=min(_LARGEST, max(original)))
    height, width = frame.size
    scale = width / photo.width
    frames = []
    for one in (before, after):
        x, y = ((c + 0.5) * scale - 0.5 for c in one.point)
        mark = [Mark(x=x, y=y, foreground=True)]
        frames.append(_frame(one.clicked, (height, width), clicks=mark))
    for one in (before, after):
        x0, y0, x1, y1 = ((c + 0.5) * scale - 0.5 for c in one.box)
        frames.append(_frame(one.boxed, (height, width), box=(x0, y0, x1, y1)))
    return FilmRow(
        image=np.array(photo.resize((width, height))),
        truth=_resized(decode(after.truth), (height, width)),
        frames=frames,
    )


def _frame(
    answer: Answer | None,
    size: tuple[int, int],
    *,
    clicks: list[Mark] | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> Frame:
    assert answer is not None
    return Frame(
        mask=_resized(answer.mask(), size),
        iou=answer.iou,
        predicted_iou=answer.predicted_iou,
        clicks=clicks or [],
        box=box,
    )


def _resized(mask: Pixels, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    picture = Image.fromarray(mask * np.uint8(255))
    small: npt.NDArray[np.bool_] = (
        np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BOX)) >= 128
    )
    return small
