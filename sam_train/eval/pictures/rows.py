"""Filmstrip rows of evaluation clicks or training rounds, in the input frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from sam_train.eval.clicks.box_prompt import BoxResult
from sam_train.eval.clicks.interactive import ClickResult
from sam_train.eval.pictures.filmstrip import BoolMask, FilmRow, Frame, Mark, Pixels
from sam_train.model import Sam
from sam_train.types import (
    ABSENT,
    BACKGROUND,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    Batch,
    Prediction,
    Prompts,
)


@dataclass(slots=True)
class ClickFilm:
    """An observer for `evaluate_clicks` that keeps a few masks for a filmstrip.

    It follows the mask of median area in each of the first `rows` images. The choice is therefore
    the same in every evaluation of the same data.
    """

    rows: int = 4
    shown: Sequence[int] = (1, 2, 3, 5, 9)
    """The numbers of clicks that get a column."""
    _films: dict[tuple[int, int], FilmRow] = field(default_factory=dict)
    _marks: dict[tuple[int, int], list[Mark]] = field(default_factory=dict)
    _chosen: dict[int, set[int]] = field(default_factory=dict)
    _boxes: bool = False

    def __call__(self, result: ClickResult) -> None:
        """Take in one click."""
        film = self._row(result)
        if film is None:
            return
        marks = self._marks.setdefault((result.batch_number, result.mask_index), [])
        x, y = result.point
        marks.append(Mark(x=x, y=y, foreground=result.foreground))
        # A perfect mask gets its column at once, because no further click follows.
        if result.clicks not in self.shown and result.iou < 1.0:
            return
        film.frames.append(
            Frame(
                mask=_resized(result.mask, film.image),
                iou=result.iou,
                predicted_iou=result.predicted_iou,
                clicks=list(marks),
            )
        )
        # Clicks since the last column are new in this one, and old in all that follow.
        marks[:] = [
            Mark(x=mark.x, y=mark.y, foreground=mark.foreground, new=False) for mark in marks
        ]

    def see_box(self, result: BoxResult) -> None:
        """Take in the mask of a box, which becomes the first column."""
        self._boxes = True
        film = self._row(result)
        if film is not None:
            film.frames.append(
                Frame(
                    mask=_resized(result.mask, film.image),
                    iou=result.iou,
                    predicted_iou=result.predicted_iou,
                    box=result.box,
                )
            )

    def _row(self, result: ClickResult | BoxResult) -> FilmRow | None:
        """Return the row that a result belongs to; None if its mask is not shown."""
        if result.batch_number not in self._chosen:
            room = self.rows - sum(len(masks) for masks in self._chosen.values())
            self._chosen[result.batch_number] = set(_one_per_image(result.batch)[: max(room, 0)])
        if result.mask_index not in self._chosen[result.batch_number]:
            return None
        place = (result.batch_number, result.mask_index)
        if place not in self._films:
            self._films[place] = _empty_row(result.batch, result.mask_index)
        return self._films[place]

    def film(self) -> list[FilmRow]:
        """Return the rows so far, in the order of the data."""
        return [self._films[place] for place in sorted(self._films)]

    def titles(self) -> list[str]:
        """Return the column heads."""
        clicks = ["1 click" if n == 1 else f"{n} clicks" for n in self.shown]
        return ["box", *clicks] if self._boxes else clicks


def rows_from_rounds(
    sam: Sam,
    batch: Batch,
    *,
    prompts: Sequence[Prompts],
    predictions: Sequence[Prediction],
    masks: Sequence[int],
) -> list[FilmRow]:
    """Make filmstrip rows of training rounds, with the prompts and the mask carried on.

    Args:
        sam: scales logits up to the input frame.
        batch: its `masks` [M, R, R] are the truth.
        prompts: one per round.
        predictions: one per round, of these prompts.
        masks: flat indices to show.

    Returns:
        One row per mask with a frame per round; IoU as the picture shows it, in the input frame.
    """
    rows = []
    for k in masks:
        row = _empty_row(batch, k)
        tokens_before = 0
        for asked, answer in zip(prompts, predictions, strict=True):
            best = int(answer.iou[k].argmax())
            mask = _upscaled(sam, batch, answer, mask=k, best=best)
            union = int((mask | row.truth).sum())
            labels = asked.labels[k].tolist()
            coords = asked.coords[k].tolist()
            row.frames.append(
                Frame(
                    mask=mask,
                    iou=float((mask & row.truth).sum()) / union if union else 1.0,
                    predicted_iou=float(answer.iou[k, best]),
                    clicks=[
                        Mark(x=x, y=y, foreground=label == FOREGROUND, new=t >= tokens_before)
                        for t, ((x, y), label) in enumerate(zip(coords, labels, strict=True))
                        if label in (FOREGROUND, BACKGROUND)
                    ],
                    box=_box(coords, labels),
                )
            )
            tokens_before = sum(label != ABSENT for label in labels)
        rows.append(row)
    return rows


def _box(coords: list[list[float]], labels: list[int]) -> tuple[float, float, float, float] | None:
    if BOX_TOP_LEFT not in labels or BOX_BOTTOM_RIGHT not in labels:
        return None
    (x0, y0), (x1, y1) = (coords[labels.index(c)] for c in (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT))
    return x0, y0, x1, y1


def _upscaled(sam: Sam, batch: Batch, answer: Prediction, *, mask: int, best: int) -> BoolMask:
    h, w = batch.image_sizes[batch.image_index[mask]].tolist()
    logits = answer.mask_logits[mask : mask + 1, best : best + 1].detach().float()
    full = sam.postprocess(logits, image_size=(h, w), original_size=(h, w))
    found: BoolMask = (full[0, 0] > 0).cpu().numpy()
    return found


def _one_per_image(batch: Batch) -> list[int]:
    assert batch.rles is not None
    areas = coco_mask.area(batch.rles)
    owners = batch.image_index.cpu().numpy()
    chosen = []
    for image in range(len(batch.keys)):
        masks = np.flatnonzero(owners == image)
        if len(masks):
            ranked = masks[np.argsort(areas[masks], kind="stable")]
            chosen.append(int(ranked[len(ranked) // 2]))
    return chosen


def _empty_row(batch: Batch, mask: int) -> FilmRow:
    image_number = int(batch.image_index[mask])
    h, w = batch.image_sizes[image_number].tolist()
    pixels: Pixels = batch.images[image_number, :3, :h, :w].permute(1, 2, 0).cpu().numpy()
    # Training batches carry no RLEs, only the loss grid.
    if batch.rles is not None:
        truth = _resized(coco_mask.decode(batch.rles[mask]), pixels)
    else:
        grid = batch.masks[mask].cpu()
        side = batch.images.shape[-1]
        full = torch.nn.functional.interpolate(grid[None, None].float(), (side, side))[0, 0]
        truth = (full[:h, :w] > 0.5).numpy()
    return FilmRow(image=np.ascontiguousarray(pixels), truth=truth, frames=[])


def _resized(mask: Pixels, like: Pixels) -> BoolMask:
    """Resize a mask of the original frame to the input frame."""
    h, w = like.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(mask) * np.uint8(255))
    # A box filter makes a mask of one pixel faint; a lower threshold keeps it wherever it can.
    small = np.asarray(picture.resize((w, h), Image.Resampling.BOX))
    return small >= min(128, max(1, int(small.max())))
