"""The loss of one round: 20 focal + 1 dice of the best mask, and the error of the predicted IoU.

Paper A, "Training algorithm" 6. Pure functions: nothing is logged, and nothing is normalised over
ranks here. Shapes and frames: see `types`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_train.masks.grid import mask_iou, to_grid
from sam_train.prompts.rng import Draw, Stream
from sam_train.train.loss_config import IouMasks, LossConfig, PointsConfig, Resolution
from sam_train.types import Prediction


@dataclass(slots=True, kw_only=True)
class LossTerms:
    """The loss of each of M masks in one round. Only `total` carries a gradient."""

    total: Tensor
    """float32 [M] weighted sum of the other three."""
    focal: Tensor
    """float32 [M] of the best mask, mean over its cells."""
    dice: Tensor
    """float32 [M] of the best mask."""
    iou_loss: Tensor
    """float32 [M] squared error of the predicted IoU."""
    real_iou: Tensor
    """float32 [M, K] of each predicted mask on the grid of the logits, thresholded at 0."""
    best: Tensor
    """int64 [M] the mask of lowest weighted focal + dice."""


@dataclass(slots=True, kw_only=True)
class _Compared:
    """Logits beside the truth at the P places where they are compared."""

    logits: Tensor
    """[M, P]."""
    target: Tensor
    """bool [M, P]."""
    valid: Tensor
    """bool [M, P]."""


@dataclass(slots=True, kw_only=True)
class _MaskTerms:
    focal: Tensor
    dice: Tensor

    def weighted(self, cfg: LossConfig) -> Tensor:
        return cfg.focal_weight * self.focal + cfg.dice_weight * self.dice


def focal_and_dice(logits: Tensor, target: Tensor, valid: Tensor, *, cfg: LossConfig) -> _MaskTerms:
    """Focal loss (mean over the valid places) and dice loss of each mask.

    Both are written in the error e of a place, 1 - p on foreground and p on background, so that
    one sigmoid and one softplus serve them and places outside the photo drop out as e = 0:
    focal = alpha_t e^gamma CE, and 1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s)
    = sum(e) / (2 sum(p t) + sum(e) + s).

    Args:
        logits: [M, P]; float64 stays, all else is computed in float32.
        target: bool [M, P].
        valid: bool [M, P].
        cfg: alpha, gamma and smoothing.

    Returns:
        focal and dice, [M] each.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    wrong = torch.where(target, -logits, logits).masked_fill(~valid, -torch.inf)
    error, cross_entropy = wrong.sigmoid(), F.softplus(wrong)
    alpha = torch.where(target, cfg.focal_alpha, 1 - cfg.focal_alpha)
    focal = (alpha * error.pow(cfg.focal_gamma) * cross_entropy).sum(1)
    overlap = (target & valid).sum(1) - (error * target).sum(1)
    errors = error.sum(1)
    return _MaskTerms(
        focal=focal / valid.sum(1).clamp(min=1),
        dice=errors / (2 * overlap + errors + cfg.dice_smoothing),
    )


def _at_points(
    logits: Tensor, targets: Tensor, valid: Tensor, *, cfg: PointsConfig, draw: Draw, r: int
) -> _Compared:
    """Logits (bilinear) and targets (nearest) at random points of the photo, mostly undecided ones.

    Args:
        logits: [M, g, g].
        targets: bool [M, R, R].
        valid: bool [M, R, R], a rectangle at the top left.
        cfg: how many, and how they are chosen.
        draw: of the step.
        r: the round.
    """
    M, R, _ = targets.shape
    important = int(cfg.importance * cfg.number)
    candidates = int(cfg.oversample * important)
    count = candidates + cfg.number - important
    extent = torch.stack([valid[:, 0].sum(1), valid[:, :, 0].sum(1)], dim=1)
    places = draw.uniform(Stream.LOSS_POINTS, index=r, count=2 * count).view(M, count, 2)
    places = (places * extent[:, None]).to(logits.dtype)

    def sample(where: Tensor) -> Tensor:
        values = F.grid_sample(
            logits[:, None],
            2 * where[:, None] / R - 1,
            padding_mode="border",
            align_corners=False,
        )
        return values[:, 0, 0]

    with torch.no_grad():
        undecided = sample(places[:, :candidates]).abs()
        chosen = undecided.topk(important, dim=1, largest=False, sorted=False).indices
        kept = places[:, :candidates].gather(1, chosen[..., None].expand(-1, -1, 2))
        places = torch.cat([kept, places[:, candidates:]], dim=1)
        cells = places.long().clamp(0, R - 1)
        target = targets.flatten(1).gather(1, cells[..., 1] * R + cells[..., 0])
    return _Compared(logits=sample(places), target=target, valid=torch.ones_like(target))


def _compare(
    logits: Tensor, targets: Tensor, valid: Tensor, *, cfg: LossConfig, draw: Draw | None, r: int
) -> _Compared:
    """One mask [M, g, g] per prompt beside its target [M, R, R], where the two are compared."""
    resolution = Resolution(cfg.resolution)
    if resolution == Resolution.points:
        if draw is None:
            raise ValueError("loss.resolution=points draws its points: pass draw=rounds.draw")
        return _at_points(logits, targets, valid, cfg=cfg.points, draw=draw, r=r)
    if resolution == Resolution.input:
        logits = F.interpolate(
            logits[:, None], targets.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0]
    if logits.shape != targets.shape:
        raise ValueError(
            f"loss.resolution={resolution}: masks of side {targets.shape[-1]} cannot be compared"
            f" with logits of side {logits.shape[-1]}: load masks at that side"
        )
    return _Compared(logits=logits.flatten(1), target=targets.flatten(1), valid=valid.flatten(1))


def mask_losses(
    prediction: Prediction,
    targets: Tensor,
    valid: Tensor,
    *,
    cfg: LossConfig,
    draw: Draw | None = None,
    r: int = 0,
) -> LossTerms:
    """The loss of each mask in one round, in float32 under autocast too: it multiplies no matrices.

    Only the best of the K masks receives the gradient of the mask loss (A): the K are compared
    without a graph first, so that one graph is kept, not K.

    To be the mean over all masks of the step on any number of ranks, the loss of a rank is
    `total.sum() * world_size / masks of all ranks`, because DDP averages gradients over ranks.

    Args:
        prediction: K masks for each of M prompts.
        targets: bool [M, R, R]; R = g, or S for `resolution` input and points.
        valid: bool [M, R, R], cells that show the photo (`grid.valid_grid`).
        cfg: weights and readings.
        draw: the step's random numbers; needed for `resolution=points` only.
        r: the round, for the same.

    Raises:
        ValueError: masks of another side than `resolution` wants, or points without `draw`.
    """
    M, K, g, _ = prediction.mask_logits.shape
    logits, predicted = prediction.mask_logits, prediction.iou
    if logits.dtype != torch.float64:
        logits, predicted = logits.float(), predicted.float()
    targets = targets != 0

    def terms(masks: Tensor) -> _MaskTerms:
        places = _compare(masks, targets, valid, cfg=cfg, draw=draw, r=r)
        return focal_and_dice(places.logits, places.target, places.valid, cfg=cfg)

    best = torch.zeros(M, dtype=torch.long, device=logits.device)
    chosen = logits[:, 0]
    if K > 1:
        with torch.no_grad():
            best = torch.stack([terms(m).weighted(cfg) for m in logits.unbind(1)]).argmin(0)
        chosen = logits.gather(1, best[:, None, None, None].expand(M, 1, g, g))[:, 0]
    mask_terms = terms(chosen)

    real_iou = mask_iou(logits, to_grid(targets, g), to_grid(valid, g))
    squared = (predicted - real_iou).square()
    every = IouMasks(cfg.iou_masks) == IouMasks.all
    iou_loss = squared.mean(1) if every else squared.gather(1, best[:, None])[:, 0]
    return LossTerms(
        total=mask_terms.weighted(cfg) + cfg.iou_weight * iou_loss,
        focal=mask_terms.focal.detach(),
        dice=mask_terms.dice.detach(),
        iou_loss=iou_loss.detach(),
        real_iou=real_iou,
        best=best,
    )
