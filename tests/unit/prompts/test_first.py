"""First prompts by name: a mix of kinds, and a kind from a file of its own."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch
from plain_batch import batch_of

from sam_train.errors import UserError
from sam_train.prompts import Draw, PromptsConfig
from sam_train.prompts.config import check
from sam_train.prompts.first import FIRST_PROMPTS, LooseBox, TwoPoints
from sam_train.prompts.rounds import first_prompts
from sam_train.train.checkpoints.config import CheckpointConfig
from sam_train.train.checkpoints.retention import metric_of
from sam_train.types import (
    BACKGROUND,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    PAD,
    Batch,
)

CENTRE = '''
"""A click in the middle of the mask's box, as RITM's users place their first one."""

import torch

from sam_train.prompts.first import FIRST_PROMPTS, FirstPrompt
from sam_train.types import Prompts


@FIRST_PROMPTS.named("centre")
class Centre(FirstPrompt):
    def draw(self, batch, draw):
        middle = (batch.boxes[:, :2] + batch.boxes[:, 2:]) / 2
        labels = batch.image_index[:, None] * 0 + torch.tensor([1, -1])
        return Prompts(coords=torch.stack([middle, middle], dim=1), labels=labels)


@FIRST_PROMPTS.named("sentence")
class Sentence(Centre):
    needs = ("sentences",)
'''


@pytest.fixture(scope="module", autouse=True)
def plugin(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plugins") / "centre.py"
    path.write_text(CENTRE)
    spec = importlib.util.spec_from_file_location("centre", path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(
    ("first", "boxes", "centres"),
    [
        (["centre"], 0.5, 0.5),
        (["point", "centre"], 0.2, 0.4),
        (["point", "point", "centre"], 0.1, 0.3),
        (["centre", "box"], 0.0, 0.5),
    ],
)
def test_kinds_share_what_boxes_leave(first: list[str], boxes: float, centres: float) -> None:
    batch = batch_of(6000)
    cfg = PromptsConfig(box_probability=boxes, first=first)
    check(cfg)
    prompts = first_prompts(batch, cfg=cfg, draw=Draw(seed=0, step=4, ids=batch.mask_ids))
    is_box = prompts.labels[:, 0] == BOX_TOP_LEFT
    is_centre = (prompts.coords[:, 0] == torch.tensor([25.0, 40.0])).all(1) & ~is_box
    # The box's middle is the point as well: told apart by the second token's place.
    is_centre &= prompts.coords[:, 1, 0] == 25
    expected = boxes + (1 - boxes) * first.count("box") / len(first)
    assert is_box.float().mean().item() == pytest.approx(expected, abs=0.02)
    assert is_centre.float().mean().item() == pytest.approx(centres, abs=0.02)
    assert prompts.coords.shape == (6000, 2, 2)
    points = ~is_box
    assert (prompts.labels[points] == torch.tensor([FOREGROUND, PAD])).all()


def draw_of(batch: Batch, *, step: int = 0) -> Draw:
    return Draw(seed=5, step=step, ids=batch.mask_ids)


def test_a_loose_box_is_moved_outward_by_each_number_of_pixels_as_often() -> None:
    batch = batch_of(8000)
    prompts = LooseBox(PromptsConfig(box_outward=3)).draw(batch, draw_of(batch))
    assert (prompts.labels == torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT])).all()
    moved = torch.cat([batch.boxes[:, :2] - prompts.coords[:, 0],
                       prompts.coords[:, 1] - batch.boxes[:, 2:]], dim=1)  # fmt: skip
    for side in moved.T:
        # 2000 of each expected, with a standard deviation of 39.
        counts = torch.bincount(side.long(), minlength=4)
        assert counts.shape == (4,)
        assert (counts - 2000).abs().max() < 160
        assert torch.equal(side, side.round())
    # The four sides of a box do not move together.
    assert torch.corrcoef(moved.T).fill_diagonal_(0).abs().max() < 0.05
    # The photo's edge stops it: the box is 40 pixels from the left and bottom edges at most.
    wide = LooseBox(PromptsConfig(box_outward=500)).draw(batch, draw_of(batch))
    assert (wide.coords.amin((0, 1)) == 0).all()
    assert (wide.coords.amax((0, 1)) == 99).all()


def discs(count: int) -> Batch:
    """Discs of all places and sizes on a photo of 64 x 40 in an input of 64, grid of 32."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand((count, 2), generator=generator) * torch.tensor([32.0, 20.0])
    radii = 0.8 + 6 * torch.rand((count, 1, 1), generator=generator)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    distance = (x - centres[:, 0, None, None]) ** 2 + (y - centres[:, 1, None, None]) ** 2
    masks = (distance <= radii**2) & (y < 20)
    masks[0] = y < 20
    masks = masks[masks.flatten(1).any(1)]
    points, boxes = [], []
    for mask in masks:
        rows, columns = mask.nonzero().T * 2
        points.append(torch.stack([columns[0], rows[0]]).float())
        corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes.append(torch.stack(corners).float())
    M = len(masks)
    return replace(
        batch_of(M),
        images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        image_sizes=torch.tensor([[40, 64]]),
        masks=masks.to(torch.uint8),
        points=torch.stack(points),
        boxes=torch.stack(boxes),
    )


@pytest.mark.parametrize("name", ["two_points", "point_and_negative"])
def test_the_second_click_falls_on_the_object_or_near_it(name: str) -> None:
    batch = discs(400)
    positive = name == "two_points"
    seen = torch.zeros(batch.masks.shape[0])
    for step in range(5):
        prompts = FIRST_PROMPTS[name](PromptsConfig()).draw(batch, draw_of(batch, step=step))
        assert torch.equal(prompts.coords[:, 0], batch.points)
        assert (prompts.labels[:, 0] == FOREGROUND).all()
        for k, (x, y) in enumerate(prompts.coords[:, 1].tolist()):
            label = int(prompts.labels[k, 1])
            if label == PAD:
                # The first mask covers the photo: nothing lies beside it.
                assert k == 0
                assert not positive
                continue
            assert label == (FOREGROUND if positive else BACKGROUND)
            assert 0 <= x < 64
            assert 0 <= y < 40
            assert bool(batch.masks[k, int(y) // 2, int(x) // 2]) == positive
            x0, y0, x1, y1 = batch.boxes[k].tolist()
            reach = max(0.5 * (x1 - x0), 3), max(0.5 * (y1 - y0), 3)
            assert x0 - reach[0] <= x <= x1 + reach[0]
            assert y0 - reach[1] <= y <= y1 + reach[1]
            seen[k] += x + 1000 * y
    assert (seen > 0).sum() >= batch.num_masks - 1


def test_second_clicks_are_uniform_over_the_object() -> None:
    batch = batch_of(8000)
    masks = torch.zeros(8000, 4, 4, dtype=torch.uint8)
    masks[:, 1, 1:3] = masks[:, 2, 3] = masks[:, 0, 0] = 1
    images = torch.zeros(1, 3, 100, 100, dtype=torch.uint8)
    prompts = TwoPoints(PromptsConfig()).draw(
        replace(batch, masks=masks, images=images), draw_of(batch)
    )
    found, counts = prompts.coords[:, 1].unique(dim=0, return_counts=True)
    # Centres of cells of 25 pixels, in pixel indices.
    assert found.tolist() == [[12, 12], [37, 37], [62, 37], [87, 62]]
    assert (counts - 2000).abs().max() < 160


@pytest.mark.parametrize(
    ("settings", "column"),
    [
        ({"box_probability": 0.0, "first": ["loose_box"]}, "val/box"),
        ({"box_probability": 0.3, "first": ["box", "loose_box"]}, "val/box"),
        ({"box_probability": 0.3, "first": ["loose_box", "point"]}, "val/miou_1"),
        ({"box_probability": 1.0}, "val/box"),
    ],
)
def test_a_model_that_is_given_only_boxes_is_judged_by_boxes(
    settings: dict[str, Any], column: str
) -> None:
    found = metric_of(CheckpointConfig(), prompts=PromptsConfig(**settings), clicks=[1, 3])
    assert found == column


def test_a_kind_says_which_field_the_samples_lack() -> None:
    batch = batch_of(2)
    with pytest.raises(UserError, match=r"prompts\.first=sentence needs `sentences`"):
        first_prompts(
            batch,
            cfg=PromptsConfig(first=["sentence"]),
            draw=Draw(seed=0, step=0, ids=batch.mask_ids),
        )
