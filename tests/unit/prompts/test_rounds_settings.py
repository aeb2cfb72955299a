"""The prompts' defaults as the paper has them, and the values that no run can mean."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from plain_batch import batch_of

from sam_train.errors import UserError
from sam_train.prompts import Draw, PromptsConfig, Schedule, Stage, schedule
from sam_train.prompts.config import Carry, NoiseLimit, check
from sam_train.prompts.first.box import noisy_boxes
from sam_train.prompts.rounds import first_prompts


def test_the_defaults_are_the_papers() -> None:
    """Section A, "Training algorithm"; the last four are what it leaves open, as documented."""
    assert asdict(PromptsConfig()) == {
        "points": 8,  # eight rounds of error clicks
        "mask_only": 2,  # one at a random place among them, one always last: 11 rounds
        "box_probability": 0.5,  # a point or a box, each as likely
        "first": ["point"],
        "box_noise": 0.1,  # a standard deviation of 10 % of the side
        "box_noise_limit": 20.0,  # limited to 20 pixels
        "multimask_first_round": True,  # a single prompt asks for three masks, more for one
        "carry": Carry.predicted_iou,  # the mask of the highest predicted IoU is fed on
        "box_noise_limits": NoiseLimit.draw,
        "feedback_gradient": False,
        "curriculum": [],
        "box_outward": 20,  # of the kind loose_box, which is MedSAM's and not in `first`
    }
    assert schedule(PromptsConfig()).number == 11


def test_a_stage_is_the_papers_rounds_but_for_what_it_says() -> None:
    assert asdict(Stage()) == {"until": 1.0, "points": 8, "mask_only": 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"box_probability": -0.01}, r"prompts\.box_probability=-0\.01 must be from 0 to 1"),
        ({"box_probability": 1.01}, r"prompts\.box_probability=1\.01 must be from 0 to 1"),
        ({"box_probability": float("nan")}, "box_probability=nan"),
        ({"first": []}, r"prompts\.first is empty"),
        (
            {"first": ["poitn"]},
            r"prompts\.first=poitn is not one of box, loose_box, point, two_points",
        ),
        ({"box_noise": -0.1}, r"prompts\.box_noise=-0\.1 must not be negative"),
        ({"box_noise": float("nan")}, "box_noise=nan"),
        ({"box_noise_limit": -1.0}, r"prompts\.box_noise_limit=-1\.0 must not be negative"),
        ({"curriculum": [Stage(until=0.0)]}, "until=0.0 must be above 0 and at most 1"),
        ({"curriculum": [Stage(until=1.5)]}, "until=1.5 must be above 0 and at most 1"),
        ({"curriculum": [Stage(until=0.6), Stage(until=0.5)]}, "must rise from stage to stage"),
        ({"points": -1}, r"prompts\.points=-1 must not be negative"),
        ({"mask_only": -1}, r"prompts\.mask_only=-1 must not be negative"),
        ({"curriculum": [Stage(until=0.5, points=-3)]}, "points=-3"),
    ],
)
def test_check_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(PromptsConfig(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"box_probability": 0.0, "box_noise": 0.0, "box_noise_limit": 0.0},
        {"box_probability": 1.0, "points": 0, "mask_only": 0},
        {"curriculum": [Stage(until=0.5), Stage(until=0.5), Stage(until=1.0)]},
    ],
)
def test_check_takes_what_lies_on_a_bound(settings: dict[str, Any]) -> None:
    check(PromptsConfig(**settings))


@pytest.mark.parametrize("points", range(5))
@pytest.mark.parametrize("mask_only", [0, 1])
def test_without_drawn_rounds_a_schedule_says_exactly_what_its_masks_do(
    points: int, mask_only: int
) -> None:
    plan = Schedule(points=points, mask_only=mask_only)
    clicks = plan.clicks(Draw(seed=0, step=0, ids=torch.arange(3)))
    expected = [False, *[True] * points, *[False] * mask_only]
    assert clicks.tolist() == [expected] * 3
    assert [plan.adds_clicks(r) for r in range(plan.number)] == expected
    assert [plan.tokens(r) for r in range(plan.number)] == [
        2 + sum(expected[: r + 1]) for r in range(plan.number)
    ]
    assert all(plan.all_present(r) for r in range(plan.number))


@pytest.mark.parametrize("mask_only", [2, 3])
def test_a_schedule_without_clicks_never_adds_one(mask_only: int) -> None:
    plan = Schedule(points=0, mask_only=mask_only)
    assert not any(plan.adds_clicks(r) for r in range(plan.number))
    assert [plan.tokens(r) for r in range(plan.number)] == [2] * (1 + mask_only)


@pytest.mark.parametrize("points", [3, 4, 8])
@pytest.mark.parametrize("mask_only", [2, 3])
def test_with_drawn_rounds_a_schedule_says_what_its_masks_may_do(
    points: int, mask_only: int
) -> None:
    """Against the drawn rounds of many masks: a round adds clicks where one of them has any, and
    none is sure to be whole where one is behind."""
    plan = Schedule(points=points, mask_only=mask_only)
    clicks = plan.clicks(Draw(seed=0, step=0, ids=torch.arange(500)))
    done = clicks.long().cumsum(1)
    for r in range(plan.number):
        assert plan.adds_clicks(r) == bool(clicks[:, r].any())
        assert plan.all_present(r) == bool((done[:, r] == min(r, points)).all())


def test_boxes_begin_below_the_probability() -> None:
    """u < p: with p = 0 no mask begins with its box, with p = 1 every one."""
    batch = batch_of(5000)
    draw = Draw(seed=1, step=1, ids=batch.mask_ids)
    for probability in (0.0, 0.2, 0.9, 1.0):
        cfg = PromptsConfig(box_probability=probability, box_noise=0.0)
        first = first_prompts(batch, cfg=cfg, draw=draw)
        is_box = first.labels[:, 0] == 2
        assert is_box.float().mean().item() == pytest.approx(probability, abs=0.02)
        assert (first.coords[is_box].flatten(1) == batch.boxes[is_box]).all()
        assert (first.coords[~is_box] == torch.tensor([[25.0, 40.0], [0.0, 0.0]])).all()


def test_a_box_at_the_photos_edge_keeps_to_its_last_pixel() -> None:
    """On a photo of 30 rows and 60 columns x ends at 59 and y at 29, whatever the noise."""
    boxes = torch.tensor([[0.0, 0.0, 59.0, 29.0]]).expand(2000, 4)
    sizes = torch.tensor([[30, 60]]).expand(2000, 2)
    draw = Draw(seed=2, step=3, ids=torch.arange(2000))
    noisy = noisy_boxes(boxes, image_sizes=sizes, cfg=PromptsConfig(), draw=draw)
    assert noisy.amin(0).tolist() == [0, 0, pytest.approx(39, abs=8), pytest.approx(19, abs=8)]
    assert noisy.amax(0).tolist()[2:] == [59, 29]
    # A noise of 10 % of the side: half of the corners are drawn in, half are cut.
    assert (noisy[:, 2] == 59).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (noisy[:, 1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
