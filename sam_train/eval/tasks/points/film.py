"""Filmstrips of typical and of the worst masks, which are clicked once more for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sam_train.eval.clicks.interactive import play_clicks
from sam_train.eval.datasets import EvalImage, prompt_batch, random_points
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import Picture
from sam_train.eval.frame.tasks import Run
from sam_train.eval.pictures.filmstrip import FilmRow, filmstrip
from sam_train.eval.pictures.rows import ClickFilm
from sam_train.runtime.jobs import SkipItem

_SMALLEST = 1 / 400
"""Part of the photo below which a mask shows nothing in a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A mask of a record."""

    key: str
    mask: int
    iou: float


@torch.no_grad()
def draw_films(
    run: Run,
    records: Sequence[Record],
    images: Mapping[str, EvalImage],
    *,
    folder: Path,
    rows: int,
) -> list[Picture]:
    """Draw `film.png` and `worst.png`, at most `rows` masks each.

    Args:
        images: by the records' key.
        folder: of the task.
    """
    if not rows:
        return []
    pictures = []
    last = max(run.cfg.points.clicks)
    for name, kind, chosen, title in (
        ("film.png", "film", typical(records, run, rows), "typical masks (median IoU)"),
        (
            "worst.png",
            "worst",
            worst(records, run, rows),
            f"worst masks after {last} clicks, of 1/400 of the photo or more",
        ),
    ):
        strip = [
            row for choice in chosen if (row := _click(run, choice, images[choice.key])) is not None
        ]
        if strip:
            film = ClickFilm(shown=sorted(set(run.cfg.points.clicks)))
            filmstrip(strip, titles=film.titles(), caption=title).save(folder / name)
            pictures.append(Picture(path=f"{folder.name}/{name}", title=title, kind=kind))
    return pictures


def typical(records: Sequence[Record], run: Run, rows: int) -> list[Choice]:
    """Choose masks of median IoU at the middle number of clicks, each data set in turn."""
    clicks = sorted(set(run.cfg.points.clicks))
    at = clicks[len(clicks) // 2]
    by_set: dict[str, list[Choice]] = {}
    for record in records:
        by_set.setdefault(str(record["dataset"]), []).extend(_choices(record, run, at=at))
    queues = []
    for choices in by_set.values():
        choices.sort(key=lambda choice: (choice.iou, choice.key, choice.mask))
        # From the median up, then down; one mask of each photo.
        middle = len(choices) // 2
        queues.append(_distinct(choices[middle:] + choices[:middle][::-1], rows))
    # The first of each data set, then the second of each: no set takes all rows.
    dealt = (queue[k] for k in range(rows) for queue in queues if k < len(queue))
    return [choice for choice, _ in zip(dealt, range(rows), strict=False)]


def worst(records: Sequence[Record], run: Run, rows: int) -> list[Choice]:
    """Choose masks of lowest IoU after the last click, one of a photo."""
    at = max(run.cfg.points.clicks)
    choices = [choice for record in records for choice in _choices(record, run, at=at)]
    choices.sort(key=lambda choice: (choice.iou, choice.key, choice.mask))
    return _distinct(choices, rows)


def _choices(record: Record, run: Run, *, at: int) -> list[Choice]:
    iou = np.array(record[run.cfg.points.first[0]]["iou"])[:, at - 1]
    return [
        Choice(key=record["key"], mask=k, iou=float(iou[k]))
        for k in range(len(iou))
        if record["areas"][k] >= _SMALLEST * record["size"][0] * record["size"][1]
    ]


def _distinct(choices: Sequence[Choice], rows: int) -> list[Choice]:
    """Take the first choices, one of a photo."""
    found: dict[str, Choice] = {}
    for choice in choices:
        if len(found) == rows:
            break
        found.setdefault(choice.key, choice)
    return list(found.values())


def _click(run: Run, choice: Choice, image: EvalImage) -> FilmRow | None:
    cfg = run.cfg
    try:
        sample = image.load(min_area=cfg.eval.min_area)
    except SkipItem:  # the file was removed since it was measured
        return None
    # The same first click as in the measurement, whichever masks are asked for.
    points = random_points(sample, seed=cfg.seed, masks=[choice.mask])
    batch = prompt_batch(
        sample, image_size=run.sam.image_size, points=points, masks=[choice.mask]
    ).to(run.device)
    film = ClickFilm(rows=1, shown=sorted(set(cfg.points.clicks)))
    embeddings = run.sam.encode(batch.images, batch.image_sizes)
    play_clicks(
        run.sam, batch, embeddings, rounds=max(film.shown), first=cfg.points.first[0], observer=film
    )
    rows = film.film()
    return rows[0] if rows else None
