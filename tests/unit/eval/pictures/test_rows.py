"""From clicks and training rounds to the rows of a filmstrip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sam_train.eval.clicks.box_prompt import BoxResult
from sam_train.eval.clicks.interactive import ClickResult
from sam_train.eval.pictures.rows import ClickFilm, rows_from_rounds
from sam_train.model import build_sam
from sam_train.types import (
    ABSENT,
    BACKGROUND,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    PAD,
    Batch,
    Prediction,
    Prompts,
)

S, G = 64, 16


def batch() -> Batch:
    """A photo of 40 x 80 in a frame of 32 x 64, with a large and a small mask."""
    large = np.zeros((40, 80), dtype=np.uint8)
    large[:20, :40] = 1
    small = np.zeros((40, 80), dtype=np.uint8)
    small[30, 70] = 1
    grid = torch.zeros(2, G, G, dtype=torch.uint8)
    grid[0, :4, :8] = 1
    return Batch(
        images=torch.full((1, 3, S, S), 90, dtype=torch.uint8),
        image_sizes=torch.tensor([[32, 64]]),
        original_sizes=torch.tensor([[40, 80]]),
        masks=grid,
        image_index=torch.tensor([0, 0]),
        points=torch.zeros(2, 2),
        boxes=torch.zeros(2, 4),
        mask_ids=torch.arange(2),
        keys=["test.tar/sa_0"],
        positions=[0],
        rles=[coco_mask.encode(np.asfortranarray(mask)) for mask in (large, small)],
    )


def click(number: int, *, mask: int, iou: float, of: Batch) -> ClickResult:
    assert of.rles is not None
    return ClickResult(
        batch=of,
        batch_number=0,
        mask_index=mask,
        clicks=number,
        point=(float(number), 2.0),
        foreground=number % 2 == 1,
        mask=coco_mask.decode(of.rles[mask]),
        iou=iou,
        predicted_iou=0.5,
    )


def test_clicks_between_two_columns_are_new_in_the_next_one() -> None:
    film, data = ClickFilm(rows=3, shown=(1, 3)), batch()
    for number in (1, 2, 3):
        for mask in (0, 1):
            film(click(number, mask=mask, iou=0.1 * number, of=data))
    (row,) = film.film()  # one mask of each image, the one of middle area
    assert film.titles() == ["1 click", "3 clicks"]
    assert [frame.iou for frame in row.frames] == pytest.approx([0.1, 0.3])
    assert [(m.x, m.foreground, m.new) for m in row.frames[1].clicks] == [
        (1.0, True, False),
        (2.0, False, True),
        (3.0, True, True),
    ]
    assert row.image.shape == (32, 64, 3)
    assert row.truth.shape == (32, 64)
    assert row.truth[:16, :32].all()
    assert row.truth.sum() == 16 * 32


def test_a_perfect_mask_ends_its_row() -> None:
    film, data = ClickFilm(rows=1, shown=(1, 5)), batch()
    film(click(1, mask=0, iou=0.5, of=data))
    film(click(2, mask=0, iou=1.0, of=data))
    assert [frame.iou for frame in film.film()[0].frames] == [0.5, 1.0]


def test_a_single_pixel_stays_visible_after_scaling_down() -> None:
    data = batch()
    data.image_index = data.image_index[1:]
    assert data.rles is not None
    data.rles = data.rles[1:]
    film = ClickFilm(rows=1)
    film(click(1, mask=0, iou=0.5, of=data))
    truth = film.film()[0].truth
    assert truth.any()
    assert truth[24, 56]


def test_training_rounds_show_new_clicks_boxes_and_the_confident_mask() -> None:
    data = batch()
    sam = build_sam("vit_t", image_size=S)
    right = torch.full((G, G), -8.0)
    right[:4, :8] = 8.0
    wrong = -right
    prompts = [
        Prompts(
            coords=torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 4.0], [50.0, 20.0]]]),
            labels=torch.tensor([[FOREGROUND, PAD], [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]),
        ),
        Prompts(
            coords=torch.tensor(
                [[[1.0, 2.0], [0.0, 0.0], [9.0, 8.0]], [[3.0, 4.0], [50.0, 20.0], [0.0, 0.0]]]
            ),
            labels=torch.tensor(
                [[FOREGROUND, PAD, BACKGROUND], [BOX_TOP_LEFT, BOX_BOTTOM_RIGHT, ABSENT]]
            ),
        ),
    ]
    predictions = [
        Prediction(
            mask_logits=torch.stack([wrong, right, wrong]).expand(2, 3, G, G),
            iou=torch.tensor([[0.1, 0.9, 0.3]]).expand(2, 3),
        ),
        Prediction(mask_logits=wrong.expand(2, 1, G, G), iou=torch.full((2, 1), 0.7)),
    ]
    point, box = rows_from_rounds(sam, data, prompts=prompts, predictions=predictions, masks=[0, 1])
    assert point.frames[0].iou > 0.9
    assert point.frames[1].iou < 0.1
    assert point.frames[0].predicted_iou == pytest.approx(0.9)
    assert [(m.x, m.y, m.foreground, m.new) for m in point.frames[1].clicks] == [
        (1.0, 2.0, True, False),
        (9.0, 8.0, False, True),
    ]
    assert point.frames[0].box is None
    assert [frame.box for frame in box.frames] == [(3.0, 4.0, 50.0, 20.0)] * 2
    assert box.frames[1].clicks == []


def test_a_box_is_the_first_column_of_the_mask_that_is_clicked() -> None:
    film, data = ClickFilm(rows=1, shown=(1,)), batch()
    assert data.rles is not None
    for mask in (0, 1):
        film.see_box(
            BoxResult(
                batch=data,
                batch_number=0,
                mask_index=mask,
                box=(1.0, 2.0, 31.0, 15.0),
                mask=coco_mask.decode(data.rles[mask]),
                iou=0.7 + 0.1 * mask,
                predicted_iou=0.9,
            )
        )
        film(click(1, mask=mask, iou=0.5, of=data))
    assert film.titles() == ["box", "1 click"]
    (row,) = film.film()
    boxed, clicked = row.frames
    followed = 1 if row.truth.sum() < 16 * 32 else 0  # the one of middle area
    assert (boxed.iou, boxed.box) == (pytest.approx(0.7 + 0.1 * followed), (1.0, 2.0, 31.0, 15.0))
    assert boxed.clicks == []
    assert clicked.box is None
    assert [mark.new for mark in clicked.clicks] == [True]
