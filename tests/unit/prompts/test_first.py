"""First prompts by name: a mix of kinds, and a kind from a file of its own."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from plain_batch import batch_of

from sam_train.errors import UserError
from sam_train.prompts import Draw, PromptsConfig
from sam_train.prompts.config import check
from sam_train.prompts.rounds import first_prompts
from sam_train.types import BOX_TOP_LEFT, FOREGROUND, PAD

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


def test_a_kind_says_which_field_the_samples_lack() -> None:
    batch = batch_of(2)
    with pytest.raises(UserError, match=r"prompts\.first=sentence needs `sentences`"):
        first_prompts(
            batch,
            cfg=PromptsConfig(first=["sentence"]),
            draw=Draw(seed=0, step=0, ids=batch.mask_ids),
        )
