"""The 11 rounds as the paper has them, mask by mask."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError
from scipy import stats
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from sam_train.prompts import Draw, PromptsConfig, Rounds, Schedule, Stage, schedule
from sam_train.prompts.config import Carry, NoiseLimit
from sam_train.prompts.first.box import noisy_boxes
from sam_train.train.loss_config import LossConfig, PointSamplingConfig, Resolution
from sam_train.train.losses import mask_losses
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


def make_batch(M: int, *, sizes: tuple[tuple[int, int], ...] = ((64, 40), (24, 64))) -> Batch:
    """Random rectangles as masks, spread over photos of the given (h, w)."""
    generator = torch.Generator().manual_seed(M)
    image_index = torch.arange(M) * len(sizes) // M
    image_sizes = torch.tensor(sizes)
    extent = image_sizes[image_index].flip(-1).float()
    corners = torch.rand(M, 2, 2, generator=generator) * (extent - 1)[:, None]
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    cells = (torch.arange(G) + 0.5) * (S / G) - 0.5
    across = (cells >= boxes[:, None, 0]) & (cells <= boxes[:, None, 2])
    down = (cells >= boxes[:, None, 1]) & (cells <= boxes[:, None, 3])
    return Batch(
        images=torch.zeros(len(sizes), 3, S, S, dtype=torch.uint8),
        image_sizes=image_sizes,
        original_sizes=image_sizes,
        masks=(down[:, :, None] & across[:, None, :]).to(torch.uint8),
        image_index=image_index,
        points=boxes.view(M, 2, 2).mean(1),
        boxes=boxes,
        mask_ids=torch.arange(M) * 3 + 1,
        keys=[""] * len(sizes),
        positions=list(range(len(sizes))),
    )


def take(batch: Batch, rows: slice) -> Batch:
    """Some masks of a batch, all images."""
    fields = ("masks", "image_index", "points", "boxes", "mask_ids")
    parts = {name: getattr(batch, name)[rows] for name in fields}
    shared = ("images", "image_sizes", "original_sizes", "keys", "positions")
    return Batch(**{name: getattr(batch, name) for name in shared}, **parts)


def make_rounds(batch: Batch, cfg: PromptsConfig | None = None, *, step: int = 0) -> Rounds:
    return Rounds(
        cfg or PromptsConfig(), batch, seed=7, step=step, image_size=S, grid_size=G, progress=1.0
    )


def answer(ids: torch.Tensor, r: int, *, multimask: bool) -> Prediction:
    """A made-up prediction, a function of mask and round only."""
    K = 3 if multimask else 1
    maps = [torch.randn(K, G, G, generator=torch.Generator().manual_seed(97 * r + i)) for i in ids]
    ious = [torch.rand(K, generator=torch.Generator().manual_seed(89 * r + i)) for i in ids]
    return Prediction(mask_logits=torch.stack(maps), iou=torch.stack(ious))


def play(batch: Batch, cfg: PromptsConfig | None = None, *, step: int = 0) -> list[Prompts]:
    """The prompts of every round."""
    rounds = make_rounds(batch, cfg, step=step)
    played = [rounds.first()]
    for r in range(1, rounds.number):
        prediction = answer(batch.mask_ids.tolist(), r, multimask=rounds.multimask(r - 1))
        played.append(rounds.next(r, played[-1], prediction))
    return played


def clicks_of(prompts: Prompts) -> torch.Tensor:
    """int64 [M] tokens beyond the first prompt."""
    return (prompts.labels[:, 2:] != ABSENT).sum(1)


def test_eleven_rounds_of_the_paper() -> None:
    played = play(make_batch(64))
    assert len(played) == 11
    assert [p.labels.shape[1] for p in played] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]
    assert played[0].mask_logits is None
    counts = torch.stack([clicks_of(p) for p in played], dim=1)
    added = counts.diff(dim=1)
    assert set(added.unique().tolist()) == {0, 1}
    assert (counts[:, -1] == 8).all()
    assert (added[:, -1] == 0).all()
    assert ((added == 0).sum(1) == 2).all()
    assert (added[:, 0] == 1).all() and (added[:, -2] == 1).all()


def test_earlier_prompts_stay_and_absent_slots_are_last() -> None:
    played = play(make_batch(64))
    for before, after in pairwise(played):
        T = before.labels.shape[1]
        had = before.labels != ABSENT
        assert torch.equal(after.labels[:, :T][had], before.labels[had])
        assert torch.equal(after.coords[:, :T][had], before.coords[had])
        present = (after.labels != ABSENT).int()
        assert (present.diff(dim=1) <= 0).all()
        assert after.coords.dtype == torch.float32 and after.labels.dtype == torch.int64


@settings(max_examples=40, deadline=None)
@given(points=st.integers(0, 5), mask_only=st.integers(0, 4))
def test_each_mask_has_its_mask_only_rounds(points: int, mask_only: int) -> None:
    plan = Schedule(points=points, mask_only=mask_only)
    draw = Draw(seed=0, step=0, ids=torch.arange(50))
    clicks = plan.clicks(draw)
    assert clicks.shape == (50, 1 + points + mask_only)
    assert (clicks.sum(1) == points).all()
    assert not clicks[:, 0].any()
    if mask_only:
        assert not clicks[:, -1].any()
    if points:
        assert clicks[:, 1].all()
    if points > 1:
        assert clicks[:, plan.number - 1 - min(mask_only, 1)].all()
    done = clicks.long().cumsum(1)
    for r in range(plan.number):
        assert plan.adds_clicks(r) or not clicks[:, r].any()
        assert (done[:, r] + 2 <= plan.tokens(r)).all()
        if plan.all_present(r):
            assert (done[:, r] + 2 == plan.tokens(r)).all()


def test_all_present_is_true_where_it_can_be() -> None:
    plan = Schedule(points=8, mask_only=2)
    assert [plan.all_present(r) for r in range(11)] == [True] * 2 + [False] * 7 + [True] * 2


@pytest.mark.parametrize("mask_only", [2, 3])
def test_the_place_among_the_clicks_is_uniform(mask_only: int) -> None:
    """Every set of rounds strictly between the first and the last click is as likely."""
    plan = Schedule(points=8, mask_only=mask_only)
    places = range(2, plan.number - 2)
    clicks = plan.clicks(Draw(seed=3, step=11, ids=torch.arange(20_000)))
    seen = dict.fromkeys(combinations(places, mask_only - 1), 0)
    for row in clicks[:, 2:-2].tolist():
        seen[tuple(2 + i for i, is_click in enumerate(row) if not is_click)] += 1
    assert stats.chisquare(list(seen.values())).pvalue > 1e-3


def test_half_begin_with_a_box_independently_of_step_and_mask() -> None:
    batch = make_batch(4000)
    boxes = [make_rounds(batch, step=s).first().labels[:, 0] == BOX_TOP_LEFT for s in (0, 1)]
    for is_box in boxes:
        assert stats.binomtest(int(is_box.sum()), 4000, 0.5).pvalue > 1e-3
    agree = int((boxes[0] == boxes[1]).sum())
    assert stats.binomtest(agree, 4000, 0.5).pvalue > 1e-3


@pytest.mark.parametrize(("probability", "label"), [(0.0, FOREGROUND), (1.0, BOX_TOP_LEFT)])
def test_only_points_or_only_boxes(probability: float, label: int) -> None:
    batch = make_batch(50)
    first = make_rounds(batch, PromptsConfig(box_probability=probability)).first()
    assert (first.labels[:, 0] == label).all()
    second = BOX_BOTTOM_RIGHT if label == BOX_TOP_LEFT else PAD
    assert (first.labels[:, 1] == second).all()
    if label == FOREGROUND:
        assert torch.equal(first.coords[:, 0], batch.points)


def noisy(
    box: list[float], cfg: PromptsConfig, *, size: tuple[int, int] = (4096, 4096), M: int = 20_000
) -> torch.Tensor:
    """M noisy versions of one box, [M, 4]."""
    return noisy_boxes(
        torch.tensor([box]).expand(M, 4),
        image_sizes=torch.tensor([size]).expand(M, 2),
        cfg=cfg,
        draw=Draw(seed=5, step=6, ids=torch.arange(M)),
    )


def test_box_noise_is_a_tenth_of_each_side() -> None:
    """A side of 100 has a deviation of 10, so the bound of 20 cuts at two deviations."""
    noise = noisy([500, 700, 600, 740], PromptsConfig()) - torch.tensor([500.0, 700, 600, 740])
    for column, deviation in zip(noise.T.numpy(), (10, 4, 10, 4), strict=True):
        inner = column[abs(column) < 1.9 * deviation] / deviation
        expected = stats.truncnorm(-1.9, 1.9)
        assert stats.kstest(inner, expected.cdf).pvalue > 1e-3
        beyond = math.erfc(2 / math.sqrt(2)) if deviation == 10 else 0.0
        assert abs((abs(column) >= 20).mean() - beyond) < 4 * math.sqrt(0.05 / len(column))
    assert abs(torch.corrcoef(noise.T) - torch.eye(4)).max() < 0.04


def test_the_draw_is_limited() -> None:
    box = [1000.0, 1000, 3000, 2000]
    noise = noisy(box, PromptsConfig()) - torch.tensor(box)
    assert noise.abs().max() == 20
    assert (noise.abs() == 20).float().mean() > 0.7  # deviations of 200 and 100


def test_the_deviation_is_limited() -> None:
    box = [1000.0, 1000, 3000, 2000]
    cfg = PromptsConfig(box_noise_limits=NoiseLimit.deviation)
    noise = (noisy(box, cfg) - torch.tensor(box)).numpy()
    assert stats.kstest(noise.ravel() / 20, "norm").pvalue > 1e-3


def test_a_noisy_box_stays_ordered_and_in_the_photo() -> None:
    cfg = PromptsConfig(box_noise=2.0, box_noise_limit=100.0)
    boxes = noisy([10, 5, 50, 20], cfg, size=(30, 60), M=2000)
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert boxes.min() >= 0
    assert boxes[:, 2].max() == 59 and boxes[:, 3].max() == 29


def test_a_one_pixel_box_is_exact() -> None:
    box = [33.0, 7.0, 33.0, 7.0]
    assert (noisy(box, PromptsConfig(), M=50) == torch.tensor(box)).all()


def test_x_is_the_column_in_a_photo_that_is_not_square() -> None:
    """A missed cell at the far right of a wide photo: x is large and y is small."""
    batch = make_batch(8, sizes=((16, 64),))
    batch.masks.zero_()
    batch.masks[:, 1, G - 1] = 1
    rounds = make_rounds(batch)
    empty = Prediction(mask_logits=-torch.ones(8, 3, G, G), iou=torch.zeros(8, 3))
    second = rounds.next(1, rounds.first(), empty)
    assert (second.coords[:, 2] == torch.tensor([61.5, 5.5])).all()
    assert (second.labels[:, 2] == FOREGROUND).all()


def test_padding_is_never_clicked() -> None:
    """Everything is predicted, so that most of what is wrong would lie in the padding."""
    batch = make_batch(400)
    rounds = make_rounds(batch)
    everything = Prediction(mask_logits=torch.ones(400, 3, G, G), iou=torch.zeros(400, 3))
    second = rounds.next(1, rounds.first(), everything)
    limits = batch.image_sizes[batch.image_index].flip(-1)
    assert (second.coords[:, 2] < limits).all()
    assert (second.labels[:, 2] == BACKGROUND).sum() > 300


def test_labels_follow_the_error() -> None:
    """Every click of a played step stands on a cell where it says the truth."""
    batch = make_batch(64)
    last = play(batch)[-1]
    for slot in range(2, 10):
        cell = ((last.coords[:, slot] + 0.5) / 4 - 0.5).round().long()
        truth = batch.masks[torch.arange(64), cell[:, 1], cell[:, 0]]
        vanished = batch.masks.flatten(1).sum(1) == 0
        right = truth == last.labels[:, slot]
        assert (right | vanished).all()


def test_the_highest_predicted_iou_is_fed_on_unchanged() -> None:
    batch = make_batch(6)
    rounds = make_rounds(batch)
    logits = torch.randn(6, 3, G, G, generator=torch.Generator().manual_seed(0)).requires_grad_()
    iou = torch.tensor([[0.1, 0.9, 0.2], [0.5, 0.4, 0.3], [-2, -3, -1.0]] * 2)
    second = rounds.next(1, rounds.first(), Prediction(mask_logits=logits, iou=iou))
    assert second.mask_logits is not None
    expected = torch.stack([logits[m, k] for m, k in enumerate([1, 0, 2] * 2)])[:, None]
    assert torch.equal(second.mask_logits, expected)
    assert not second.mask_logits.requires_grad
    assert not second.coords.requires_grad


def test_gradient_flows_back_only_where_it_is_asked_for() -> None:
    batch = make_batch(6)
    rounds = make_rounds(batch, PromptsConfig(feedback_gradient=True))
    logits = torch.zeros(6, 3, G, G, requires_grad=True)
    second = rounds.next(
        1, rounds.first(), Prediction(mask_logits=logits, iou=torch.tensor([[0.1, 0.9, 0.2]] * 6))
    )
    assert second.mask_logits is not None
    second.mask_logits.sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] == 1).all()
    assert (logits.grad[:, [0, 2]] == 0).all()
    assert not second.coords.requires_grad


def test_the_fed_on_mask_decides_the_error_region() -> None:
    """The believed mask is perfect but for one cell; the two others are wrong everywhere else."""
    batch = make_batch(5, sizes=((64, 64),))
    batch.masks.zero_()
    batch.masks[:, 4:9, 4:9] = 1
    good = batch.masks[0].float() * 2 - 1
    good[5, 5] = -1
    logits = torch.stack([-good, good, -good]).expand(5, 3, G, G)
    iou = torch.tensor([0.0, 0.5, 0.1]).expand(5, 3)
    rounds = make_rounds(batch)
    second = rounds.next(1, rounds.first(), Prediction(mask_logits=logits, iou=iou))
    assert (second.coords[:, 2] == 21.5).all() and (second.labels[:, 2] == FOREGROUND).all()


def test_carrying_the_best_real_iou() -> None:
    batch = make_batch(4, sizes=((64, 64),))
    batch.masks.zero_()
    batch.masks[:, 3:7, 3:7] = 1
    good = batch.masks[0].float() * 2 - 1
    logits = torch.stack([-good, -torch.ones(G, G), good]).expand(4, 3, G, G)
    rounds = make_rounds(batch, PromptsConfig(carry=Carry.real_iou))
    prediction = Prediction(mask_logits=logits, iou=torch.tensor([[1.0, 0.5, 0]] * 4))
    second = rounds.next(1, rounds.first(), prediction)
    assert second.mask_logits is not None
    assert torch.equal(second.mask_logits[:, 0], good.expand(4, G, G))


def test_only_the_first_round_asks_for_three() -> None:
    batch = make_batch(3)
    assert [make_rounds(batch).multimask(r) for r in range(3)] == [True, False, False]
    single = make_rounds(batch, PromptsConfig(multimask_first_round=False))
    assert not single.multimask(0)


def test_prompts_do_not_depend_on_the_company_of_a_mask() -> None:
    """Two ranks with half the masks each draw what one rank draws with all of them."""
    batch = make_batch(30)
    whole = play(batch, step=3)
    halves = [play(take(batch, rows), step=3) for rows in (slice(0, 11), slice(11, 30))]
    for r, prompts in enumerate(whole):
        parts = [half[r] for half in halves]
        assert torch.equal(prompts.coords, torch.cat([p.coords for p in parts]))
        assert torch.equal(prompts.labels, torch.cat([p.labels for p in parts]))
        if prompts.mask_logits is not None:
            fed = [p.mask_logits for p in parts if p.mask_logits is not None]
            assert torch.equal(prompts.mask_logits, torch.cat(fed))


def test_each_round_clicks_anew() -> None:
    """The same error, over the whole photo, is clicked at another place each round."""
    batch = make_batch(40, sizes=((64, 64),))
    batch.masks.fill_(1)
    rounds = make_rounds(batch, PromptsConfig(mask_only=0))
    prompts = rounds.first()
    for r in range(1, 9):
        nothing = Prediction(mask_logits=-torch.ones(40, 1, G, G), iou=torch.zeros(40, 1))
        prompts = rounds.next(r, prompts, nothing)
    for one in prompts.coords[:, 2:].tolist():
        assert len({tuple(xy) for xy in one}) >= 6  # 8 draws from 256 cells
    steps = prompts.coords[:, 2:].flatten(1)
    assert abs(torch.corrcoef(steps.T)[0, 2:]).max() < 0.6


def test_steps_differ_and_repeat() -> None:
    batch = make_batch(30)
    last = [play(batch, step=s)[-1].coords for s in (4, 4, 5)]
    assert torch.equal(last[0], last[1])
    assert not torch.equal(last[0], last[2])


def test_nothing_waits_for_the_device() -> None:
    """Fake tensors have no values: whatever looks at one (`item`, `nonzero`, boolean indexing, a
    branch) raises.
    """
    real = make_batch(6)
    cfg = LossConfig(resolution=Resolution.points, points=PointSamplingConfig(number=40))
    with FakeTensorMode() as mode:
        tensors = {
            f.name: mode.from_tensor(value)
            for f in fields(real)
            if isinstance(value := getattr(real, f.name), torch.Tensor)
        }
        batch = replace(real, **tensors)
        rounds = make_rounds(batch)
        prompts = rounds.first()
        for r in range(rounds.number):
            K = 3 if rounds.multimask(r) else 1
            logits = torch.zeros(6, K, G, G, requires_grad=True)
            prediction = Prediction(mask_logits=logits, iou=torch.zeros(6, K))
            for options in (LossConfig(), cfg):
                mask_losses(
                    prediction, rounds.targets, rounds.valid, cfg=options, draw=rounds.draw, r=r
                ).total.sum().backward()
            if r + 1 < rounds.number:
                prompts = rounds.next(r + 1, prompts, prediction)
        assert prompts.labels.shape == (6, 10)
        with pytest.raises(DataDependentOutputException):
            bool(prompts.labels.any())


def test_no_mask_at_all() -> None:
    """A rank whose images lost all their masks goes through the same rounds."""
    rounds = make_rounds(take(make_batch(4), slice(0, 0)))
    played = [rounds.first()]
    for r in range(1, rounds.number):
        K = 3 if r == 1 else 1
        nothing = Prediction(mask_logits=torch.zeros(0, K, G, G), iou=torch.zeros(0, K))
        played.append(rounds.next(r, played[-1], nothing))
    assert len(played) == 11
    assert played[-1].coords.shape == (0, 10, 2)


def test_clicks_live_on_the_grid_of_the_logits_when_the_loss_is_finer() -> None:
    batch = make_batch(12)
    coarse = play(batch)
    batch.masks = batch.masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    fine = play(batch)
    assert make_rounds(batch).targets.shape == (12, 64, 64)
    for a, b in zip(coarse, fine, strict=True):
        assert torch.equal(a.coords, b.coords) and torch.equal(a.labels, b.labels)


def test_curriculum() -> None:
    stages = [Stage(until=0.4, points=0, mask_only=0), Stage(until=0.7, points=2, mask_only=1)]
    cfg = PromptsConfig(curriculum=stages)
    assert [schedule(cfg, progress=p).number for p in (0.0, 0.39, 0.4, 0.69, 0.7, 1.0)] == [
        *(1, 1, 4, 4, 11, 11)
    ]
    batch = make_batch(5)
    assert len(play(batch, PromptsConfig(points=4, mask_only=0, box_probability=0.0))) == 5


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (PromptsConfig(points=-1), "must not be negative"),
        (PromptsConfig(curriculum=[Stage(until=0.5), Stage(until=0.2)]), "must rise"),
        (PromptsConfig(curriculum=[Stage(until=0.5, mask_only=-2)]), "must not be negative"),
    ],
)
def test_impossible_settings_are_refused(cfg: PromptsConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(cfg)


def test_settings_come_from_yaml() -> None:
    schema = OmegaConf.structured(PromptsConfig)
    text = "carry: real_iou\nbox_noise_limits: deviation\ncurriculum: [{until: 0.3, points: 1}]"
    cfg = OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create(text)))
    assert isinstance(cfg, PromptsConfig)
    assert cfg.carry is Carry.real_iou
    assert cfg.curriculum == [Stage(until=0.3, points=1, mask_only=2)]
    with pytest.raises(ValidationError, match="predicted_iou"):
        OmegaConf.merge(schema, OmegaConf.create("carry: predicted"))
