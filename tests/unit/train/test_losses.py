"""The losses against hand-computed numbers, textbook formulas and finite differences."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError
from torch import Tensor
from torch.nn import functional as F

from sam_train.errors import UserError
from sam_train.prompts import Draw
from sam_train.train.loss_config import (
    IouMasks,
    LossConfig,
    PointSamplingConfig,
    Resolution,
    TermConfig,
    check,
)
from sam_train.train.losses import (
    MASK_TERMS,
    Compared,
    LossTerms,
    mask_losses,
    mask_terms,
    weighted,
)
from sam_train.types import Prediction


def naive(logits: Tensor, target: Tensor, valid: Tensor, cfg: LossConfig) -> tuple[float, float]:
    """Focal (Lin et al. 2017) and dice (Milletari et al. 2016) of one mask as they are printed."""
    x = logits[valid].double().numpy()
    t = target[valid].numpy().astype(float)
    p = 1 / (1 + np.exp(-x))
    p_t = t * p + (1 - t) * (1 - p)
    a_t = t * cfg.focal_alpha + (1 - t) * (1 - cfg.focal_alpha)
    focal = (-a_t * (1 - p_t) ** cfg.focal_gamma * np.log(p_t)).mean()
    s = cfg.dice_smoothing
    dice = 1 - (2 * (p * t).sum() + s) / (p.sum() + t.sum() + s)
    return float(focal), float(dice)


def random_case(seed: int, M: int = 5, K: int = 3, g: int = 8) -> tuple[Prediction, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = Prediction(
        mask_logits=3 * torch.randn(M, K, g, g, generator=generator),
        iou=torch.rand(M, K, generator=generator),
    )
    targets = torch.rand(M, g, g, generator=generator) < 0.4
    valid = torch.zeros(M, g, g, dtype=torch.bool)
    valid[:, :, : g - 2] = True
    return prediction, targets & valid, valid


def losses(prediction: Prediction, targets: Tensor, valid: Tensor, **options: Any) -> LossTerms:
    return mask_losses(prediction, targets, valid, cfg=LossConfig(**options))


def test_two_by_two_by_hand() -> None:
    """p = 1/2 everywhere, one foreground cell of four.

    Focal: (1/4 * 1/4 ln 2 + 3 * 3/4 * 1/4 ln 2) / 4 = 0.15625 ln 2.
    Dice: 1 - (2 * 1/2 + 1) / (2 + 1 + 1) = 1/2. Real IoU: logit 0 is background, so 0 of 1.
    """
    prediction = Prediction(mask_logits=torch.zeros(1, 1, 2, 2), iou=torch.tensor([[0.3]]))
    target = torch.tensor([[[1, 0], [0, 0]]])
    terms = losses(prediction, target, torch.ones(1, 2, 2, dtype=torch.bool))
    focal = 0.15625 * np.log(2)
    assert terms.named["focal"].item() == pytest.approx(focal, rel=1e-6)
    assert terms.named["dice"].item() == pytest.approx(0.5, rel=1e-6)
    assert terms.real_iou.item() == 0
    assert terms.named["iou"].item() == pytest.approx(0.09, rel=1e-6)
    assert terms.total.item() == pytest.approx(20 * focal + 0.5 + 0.09, rel=1e-6)


def test_iou_by_hand() -> None:
    """Two cells predicted, two true, one in common: IoU 1/3."""
    logits = torch.tensor([[[[4.0, 4.0], [-4.0, -4.0]]]])
    prediction = Prediction(mask_logits=logits, iou=torch.tensor([[0.5]]))
    target = torch.tensor([[[1, 0], [1, 0]]])
    terms = losses(prediction, target, torch.ones(1, 2, 2, dtype=torch.bool))
    assert terms.real_iou.item() == pytest.approx(1 / 3)
    assert terms.named["iou"].item() == pytest.approx((1 / 2 - 1 / 3) ** 2, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    alpha=st.floats(0.05, 0.95),
    gamma=st.sampled_from([0.0, 1.0, 2.0, 3.5]),
    smoothing=st.sampled_from([1e-3, 1.0, 5.0]),
)
def test_equals_the_printed_formulas(
    seed: int, alpha: float, gamma: float, smoothing: float
) -> None:
    prediction, targets, valid = random_case(seed, K=1)
    options = {"focal_alpha": alpha, "focal_gamma": gamma, "dice_smoothing": smoothing}
    cfg = LossConfig(**options)
    terms = losses(prediction, targets, valid, **options)
    for m in range(len(targets)):
        focal, dice = naive(prediction.mask_logits[m, 0], targets[m], valid[m], cfg)
        assert terms.named["focal"][m].item() == pytest.approx(focal, rel=2e-5)
        assert terms.named["dice"][m].item() == pytest.approx(dice, rel=2e-5)


def test_focal_without_focus_is_cross_entropy() -> None:
    prediction, targets, valid = random_case(0, K=1)
    terms = losses(prediction, targets, valid, focal_alpha=0.5, focal_gamma=0.0)
    plain = F.binary_cross_entropy_with_logits(
        prediction.mask_logits[:, 0], targets.float(), reduction="none"
    )
    expected = (plain * valid).sum((1, 2)) / valid.sum((1, 2)) / 2
    torch.testing.assert_close(terms.named["focal"], expected)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[[1e4, -1e4], [1e4, -1e4]]]], requires_grad=True)
    target = torch.tensor([[[1, 1], [0, 0]]])
    terms = losses(
        Prediction(mask_logits=logits, iou=torch.zeros(1, 1)), target, torch.ones(1, 2, 2).bool()
    )
    terms.total.sum().backward()
    assert terms.named["focal"].item() == pytest.approx(2500, rel=1e-5)  # (1e4 / 4 + 3e4 / 4) / 4
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_gradient_is_that_of_finite_differences(gamma: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 12, generator=generator) < 0.5
    valid = torch.rand(2, 12, generator=generator) < 0.8
    cfg = LossConfig(focal_gamma=gamma)
    assert torch.autograd.gradcheck(
        lambda x: weighted(mask_terms(Compared(logits=x, target=target, valid=valid), cfg), cfg),
        logits,
    )


@pytest.mark.parametrize("resolution", list(Resolution))
def test_gradient_of_a_round_is_that_of_finite_differences(resolution: Resolution) -> None:
    prediction, targets, valid = random_case(3, M=2, g=6)
    side = 1 if resolution == Resolution.grid else 2
    targets, valid = (
        t.repeat_interleave(side, 1).repeat_interleave(side, 2) for t in (targets, valid)
    )
    cfg = LossConfig(resolution=resolution, points=PointSamplingConfig(number=30))
    draw = Draw(seed=0, step=0, ids=torch.arange(2))

    def total(logits: Tensor, iou: Tensor) -> Tensor:
        case = Prediction(mask_logits=logits, iou=iou)
        return mask_losses(case, targets, valid, cfg=cfg, draw=draw).total

    inputs = [
        t.double().detach().requires_grad_() for t in (prediction.mask_logits, prediction.iou)
    ]
    # real IoU is float32, so the predicted IoU's error carries its rounding.
    assert torch.autograd.gradcheck(total, inputs, atol=1e-5)


@pytest.mark.parametrize("masks", [2, 3, 5])
def test_the_best_is_that_of_lowest_weighted_loss(masks: int) -> None:
    prediction, targets, valid = random_case(4, M=40, K=masks)
    cfg = LossConfig()
    terms = losses(prediction, targets, valid)
    for m in range(40):
        scores = []
        for k in range(masks):
            focal, dice = naive(prediction.mask_logits[m, k], targets[m], valid[m], cfg)
            scores.append(20 * focal + dice)
        assert terms.best[m].item() == int(np.argmin(scores))
        focal, dice = naive(prediction.mask_logits[m, terms.best[m]], targets[m], valid[m], cfg)
        assert terms.named["focal"][m].item() == pytest.approx(focal, rel=2e-5)
        assert terms.named["dice"][m].item() == pytest.approx(dice, rel=2e-5)
    assert len(terms.best.unique()) == masks


def test_only_the_best_mask_gets_a_gradient() -> None:
    prediction, targets, valid = random_case(5)
    prediction.mask_logits.requires_grad_()
    terms = losses(prediction, targets, valid)
    terms.total.sum().backward()
    gradient = prediction.mask_logits.grad
    assert gradient is not None
    touched = gradient.abs().flatten(2).sum(-1) > 0
    assert torch.equal(touched, F.one_hot(terms.best, 3).bool())
    assert not gradient[~valid[:, None].expand_as(gradient)].any()


@pytest.mark.parametrize("which", list(IouMasks))
def test_whose_predicted_iou_is_trained(which: IouMasks) -> None:
    prediction, targets, valid = random_case(6)
    prediction.iou.requires_grad_()
    terms = losses(prediction, targets, valid, iou_masks=which, iou_weight=3.0)
    terms.total.sum().backward()
    error = (prediction.iou - terms.real_iou).detach()
    weight = (
        F.one_hot(terms.best, 3).float() if which == IouMasks.best else torch.full((5, 3), 1 / 3)
    )
    torch.testing.assert_close(prediction.iou.grad, 3 * 2 * error * weight)
    torch.testing.assert_close(terms.named["iou"], (error.square() * weight).sum(1))


def test_only_the_total_carries_a_gradient() -> None:
    prediction, targets, valid = random_case(7)
    prediction.mask_logits.requires_grad_()
    prediction.iou.requires_grad_()
    terms = losses(prediction, targets, valid)
    assert terms.total.requires_grad
    others = (*terms.named.values(), terms.real_iou)
    assert not any(t.requires_grad for t in others)


def test_what_lies_in_the_padding_does_not_count() -> None:
    prediction, targets, valid = random_case(8)
    changed = prediction.mask_logits.masked_fill(~valid[:, None], 50.0)
    a = losses(prediction, targets, valid)
    b = losses(Prediction(mask_logits=changed, iou=prediction.iou), targets | ~valid, valid)
    assert a.named.keys() == b.named.keys() == {"focal", "dice", "iou"}
    for name, of_a, of_b in (
        *((name, getattr(a, name), getattr(b, name)) for name in ("total", "real_iou", "best")),
        *((name, a.named[name], b.named[name]) for name in a.named),
    ):
        assert torch.equal(of_a, of_b), name


def test_a_mask_without_cells_is_finite_and_pushed_to_empty() -> None:
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    case = Prediction(mask_logits=logits, iou=torch.zeros(1, 1))
    terms = losses(case, nothing, ~nothing)
    terms.total.sum().backward()
    assert terms.named["dice"].item() == pytest.approx(8 / 9)
    assert logits.grad is not None and (logits.grad > 0).all()
    no_photo = losses(case, nothing, nothing)
    assert no_photo.total.item() == 0


def test_no_mask_at_all_keeps_its_graph() -> None:
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    nothing = torch.zeros(0, 4, 4, dtype=torch.bool)
    terms = losses(Prediction(mask_logits=logits, iou=torch.zeros(0, 3)), nothing, nothing)
    terms.total.sum().backward()
    assert terms.total.sum().item() == 0
    assert terms.real_iou.shape == (0, 3)


@pytest.mark.parametrize("resolution", list(Resolution))
def test_float32_under_autocast(resolution: Resolution) -> None:
    """bfloat16 logits inside autocast give exactly what their float32 copies give outside."""
    prediction, targets, valid = random_case(9)
    low = Prediction(mask_logits=prediction.mask_logits.bfloat16(), iou=prediction.iou.bfloat16())
    cfg = LossConfig(resolution=resolution, points=PointSamplingConfig(number=40))
    draw = Draw(seed=0, step=0, ids=torch.arange(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = mask_losses(low, targets, valid, cfg=cfg, draw=draw)
    copy = Prediction(mask_logits=low.mask_logits.float(), iou=low.iou.float())
    outside = mask_losses(copy, targets, valid, cfg=cfg, draw=draw)
    assert inside.total.dtype == torch.float32
    assert torch.equal(inside.total, outside.total)


def test_input_resolution_upscales_the_logits() -> None:
    prediction, targets, valid = random_case(10)
    targets, valid = (t.repeat_interleave(4, 1).repeat_interleave(4, 2) for t in (targets, valid))
    terms = losses(prediction, targets, valid, resolution=Resolution.input)
    big = F.interpolate(prediction.mask_logits, (32, 32), mode="bilinear", align_corners=False)
    expected = losses(Prediction(mask_logits=big, iou=prediction.iou), targets, valid)
    assert torch.equal(terms.best, expected.best)
    torch.testing.assert_close(terms.named["focal"], expected.named["focal"])
    torch.testing.assert_close(terms.named["dice"], expected.named["dice"])


def disc() -> tuple[Prediction, Tensor, Tensor]:
    """A disc predicted a little off, with a target of four times the side of the logits."""
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    target = ((rows - 60) ** 2 + (columns - 50) ** 2 < 30**2)[None]
    cells = torch.arange(32.0) * 4 + 1.5
    distance = ((cells[:, None] - 64) ** 2 + (cells[None] - 56) ** 2).sqrt()
    prediction = Prediction(mask_logits=((30 - distance) / 4)[None, None], iou=torch.zeros(1, 1))
    return prediction, target, (columns < 60)[None]


def at_points(number: int, importance: float, *, r: int = 0) -> LossTerms:
    """The disc compared at the points of round r."""
    points = PointSamplingConfig(number=number, importance=importance)
    cfg = LossConfig(resolution=Resolution.points, points=points)
    draw = Draw(seed=1, step=2, ids=torch.tensor([17]))
    return mask_losses(*disc(), cfg=cfg, draw=draw, r=r)


def test_uniform_points_estimate_the_loss_of_the_input_resolution() -> None:
    full = losses(*disc(), resolution=Resolution.input)
    sampled = at_points(50_000, 0.0)
    assert sampled.named["focal"].item() == pytest.approx(full.named["focal"].item(), rel=0.05)
    assert sampled.named["dice"].item() == pytest.approx(full.named["dice"].item(), rel=0.05)


def test_important_points_are_harder_and_repeatable() -> None:
    plain, important = at_points(2000, 0.0), at_points(2000, 0.75)
    assert important.named["focal"].item() > 1.3 * plain.named["focal"].item()
    assert torch.equal(important.total, at_points(2000, 0.75).total)
    assert not torch.equal(important.total, at_points(2000, 0.75, r=1).total)


def test_points_do_not_depend_on_the_company_of_a_mask() -> None:
    prediction, targets, valid = random_case(11)
    ids = torch.tensor([3, 1, 4, 15, 9])
    cfg = LossConfig(resolution=Resolution.points, points=PointSamplingConfig(number=50))

    def totals(rows: slice) -> Tensor:
        case = Prediction(mask_logits=prediction.mask_logits[rows], iou=prediction.iou[rows])
        draw = Draw(seed=0, step=0, ids=ids[rows])
        return mask_losses(case, targets[rows], valid[rows], cfg=cfg, draw=draw, r=4).total

    parts = torch.cat([totals(slice(0, 2)), totals(slice(2, 5))])
    torch.testing.assert_close(totals(slice(None)), parts, rtol=1e-6, atol=0)


def test_the_mean_over_ranks_is_the_mean_over_masks() -> None:
    """Ranks with 1 and 4 masks, averaged as DDP does, equal one rank with all five."""
    prediction, targets, valid = random_case(12)
    whole = losses(prediction, targets, valid).total.mean()
    ranks = []
    for rows in (slice(0, 1), slice(1, 5)):
        part = Prediction(mask_logits=prediction.mask_logits[rows], iou=prediction.iou[rows])
        ranks.append(losses(part, targets[rows], valid[rows]).total.sum() * 2 / 5)
    torch.testing.assert_close(torch.stack(ranks).mean(), whole)


def test_the_defaults_are_the_papers_and_where_it_is_silent_the_fields() -> None:
    assert asdict(LossConfig()) == {
        "focal_weight": 20.0,  # A: focal to dice 20:1
        "dice_weight": 1.0,
        "iou_weight": 1.0,  # A: the squared error of the predicted IoU enters with 1.0
        "focal_alpha": 0.25,  # RetinaNet's best pair
        "focal_gamma": 2.0,
        "dice_smoothing": 1.0,
        "resolution": Resolution.grid,
        "iou_masks": IouMasks.all,
        "points": {"number": 112 * 112, "oversample": 3.0, "importance": 0.75},  # Mask2Former's
        "terms": [],
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({name: value}, f"loss.{name}={value} must not be negative")
            for name in ("focal_weight", "dice_weight", "iou_weight", "focal_gamma")
            for value in (-0.1, float("nan"))
        ),
        ({"dice_smoothing": -1.0}, "loss.dice_smoothing=-1.0 must not be negative"),
        ({"focal_alpha": -0.1}, "loss.focal_alpha=-0.1 must be from 0 to 1"),
        ({"focal_alpha": 1.1}, "loss.focal_alpha=1.1 must be from 0 to 1"),
        (
            {"points": PointSamplingConfig(importance=-0.1)},
            "loss.points.importance=-0.1 must be from",
        ),
        (
            {"points": PointSamplingConfig(importance=1.1)},
            "loss.points.importance=1.1 must be from",
        ),
        ({"points": PointSamplingConfig(number=0)}, "loss.points.number=0 must be at least 1"),
        (
            {"points": PointSamplingConfig(oversample=0.9)},
            "loss.points.oversample=0.9 must be at least 1",
        ),
        ({"points": PointSamplingConfig(oversample=float("nan"))}, "must be at least 1"),
        ({"terms": [TermConfig(name="boundry")]}, "loss.terms=boundry is not one of focal, dice"),
        ({"terms": [TermConfig(name="dice")]}, "have weights of their own: loss.focal_weight"),
        ({"terms": [TermConfig(name="iou")]}, "have weights of their own: loss.focal_weight"),
    ],
)
def test_check_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(LossConfig(**options))


def test_check_takes_what_lies_on_a_bound() -> None:
    check(LossConfig())
    zeros = dict.fromkeys(("focal_weight", "dice_weight", "iou_weight", "focal_gamma"), 0.0)
    for share in (0.0, 1.0):
        points = PointSamplingConfig(number=1, oversample=1.0, importance=share)
        check(LossConfig(**zeros, dice_smoothing=0.0, focal_alpha=share, points=points))


def test_masks_of_another_side_are_refused() -> None:
    prediction, targets, valid = random_case(13)
    with pytest.raises(ValueError, match="masks of side 16 cannot be compared"):
        losses(prediction, targets.repeat(1, 2, 2), valid.repeat(1, 2, 2))
    with pytest.raises(ValueError, match=r"draw=rounds\.draw"):
        losses(prediction, targets, valid, resolution=Resolution.points)


def test_settings_come_from_yaml() -> None:
    schema = OmegaConf.structured(LossConfig)
    loaded = OmegaConf.merge(schema, OmegaConf.create("{resolution: input, points: {number: 5}}"))
    cfg = OmegaConf.to_object(loaded)
    assert isinstance(cfg, LossConfig)
    assert cfg.resolution is Resolution.input and cfg.points.number == 5
    with pytest.raises(ValidationError, match="grid, input, points"):
        OmegaConf.merge(schema, OmegaConf.create("resolution: full"))


@MASK_TERMS.named("misses")
def misses(places: Compared, cfg: LossConfig) -> Tensor:
    """Compute the share of valid places that are wrong, by probability, as a plug-in could."""
    return (places.error * places.valid).sum(1) / places.valid.sum(1).clamp(min=1)


def test_a_term_of_ones_own_is_weighted_logged_and_has_a_say_in_the_best() -> None:
    prediction, targets, valid = random_case(14, M=40)
    paper = losses(prediction, targets, valid)
    options = {"focal_weight": 0.0, "dice_weight": 0.0, "terms": [TermConfig("misses", 3.0)]}
    check(LossConfig(**options))
    terms = losses(prediction, targets, valid, **options)
    assert list(terms.named) == ["focal", "dice", "misses", "iou"]
    p = prediction.mask_logits.sigmoid()
    wrong = torch.where(targets[:, None], 1 - p, p) * valid[:, None]
    shares = wrong.sum((2, 3)) / valid.sum((1, 2))[:, None]
    torch.testing.assert_close(terms.named["misses"], shares.amin(1))
    assert torch.equal(terms.best, shares.argmin(1))
    assert not torch.equal(terms.best, paper.best)
    expected = 3 * terms.named["misses"] + terms.named["iou"]
    torch.testing.assert_close(terms.total, expected)
