"""The loss of one round: 20 focal + 1 dice of the best mask, and the error of the predicted IoU.

Paper A, "Training algorithm" 6. The functions are pure: they neither log nor normalise over ranks.
`types` has the shapes and frames.

A term of masks is a function under `@MASK_TERMS.named(NAME)`, in this file or in a plug-in.
`loss.terms` gives it a weight, and metrics.csv shows it in the columns `loss_NAME_rRR`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_train.masks.grid import mask_iou, to_grid
from sam_train.prompts.rng import Draw, Stream
from sam_train.runtime.registry import Registry
from sam_train.train.loss_config import IouMasks, LossConfig, PointSamplingConfig, Resolution
from sam_train.types import Prediction


def weights_of(cfg: LossConfig) -> dict[str, float]:
    """Return the terms of the mask loss and their weights, in the order in which they are added."""
    paper = {"focal": cfg.focal_weight, "dice": cfg.dice_weight}
    return paper | {term.name: term.weight for term in cfg.terms}


@dataclass(slots=True, kw_only=True)
class LossTerms:
    """The loss of each of M masks in one round. Only `total` carries a gradient."""

    total: Tensor
    """float32 [M] weighted sum of the terms."""
    named: dict[str, Tensor]
    """float32 [M] each, unweighted: focal, dice and further terms of the best mask, then `iou`, the
    squared error of the predicted IoU."""
    real_iou: Tensor
    """float32 [M, K] of each predicted mask on the grid of the logits, thresholded at 0."""
    best: Tensor
    """int64 [M] index of the mask with the lowest weighted mask loss."""


@dataclass(kw_only=True)
class Compared:
    """Logits beside the truth at P places, and the quantities that several terms need of them.

    Every quantity is computed once, by the first term that asks for it.
    """

    logits: Tensor
    """[M, P]; float64 stays, everything else is float32."""
    target: Tensor
    """bool [M, P]."""
    valid: Tensor
    """bool [M, P], false outside the photo."""

    @cached_property
    def wrong(self) -> Tensor:
        """[M, P] the logit of the wrong answer; -inf outside the photo."""
        logits = self.logits if self.logits.dtype == torch.float64 else self.logits.float()
        # -inf makes e, its gradient and the cross-entropy exactly 0 outside the photo.
        return torch.where(self.target, -logits, logits).masked_fill(~self.valid, -torch.inf)

    @cached_property
    def error(self) -> Tensor:
        """[M, P] e: 1 - p on foreground, p on background, 0 outside the photo."""
        return self.wrong.sigmoid()

    @cached_property
    def cross_entropy(self) -> Tensor:
        """[M, P] binary cross-entropy, 0 outside the photo."""
        # -log(1 - e), stable for large logits.
        return F.softplus(self.wrong)


MaskTerm = Callable[[Compared, LossConfig], Tensor]
"""A term of the mask loss: from M compared masks to [M], differentiable in their logits."""

MASK_TERMS: Registry[MaskTerm] = Registry("loss.terms")
"""The terms by name. Each also decides which of three masks is the best."""


@MASK_TERMS.named("focal")
def focal(places: Compared, cfg: LossConfig) -> Tensor:
    """Compute the focal loss alpha_t e^gamma CE (Lin et al. 2017), the mean over valid places."""
    # Before `cross_entropy`: gradients are summed in the reverse order of the operations.
    error = places.error
    alpha = torch.where(places.target, cfg.focal_alpha, 1 - cfg.focal_alpha)
    sums = (alpha * error.pow(cfg.focal_gamma) * places.cross_entropy).sum(1)
    # Over the photo, not the padded square: a narrow photo would else learn from small losses.
    return sums / places.valid.sum(1).clamp(min=1)


@MASK_TERMS.named("dice")
def dice(places: Compared, cfg: LossConfig) -> Tensor:
    """Compute the dice loss (Milletari et al. 2016) with smoothing s, in terms of the error e.

    1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s) = sum(e) / (2 sum(p t) + sum(e) + s). Places
    outside the photo drop out, because e is 0 there.
    """
    # sum(p t) = sum(t) - sum(e t), because e = 1 - p on foreground; no second sigmoid.
    overlap = (places.target & places.valid).sum(1) - (places.error * places.target).sum(1)
    errors = places.error.sum(1)
    return errors / (2 * overlap + errors + cfg.dice_smoothing)


def mask_terms(places: Compared, cfg: LossConfig) -> dict[str, Tensor]:
    """Compute every term of the mask loss, [M] each."""
    return {name: MASK_TERMS[name](places, cfg) for name in weights_of(cfg)}


def weighted(terms: dict[str, Tensor], cfg: LossConfig) -> Tensor:
    """Sum the terms of the mask loss, [M], each times its weight."""
    return reduce(add, (weight * terms[name] for name, weight in weights_of(cfg).items()))


def _at_points(
    logits: Tensor, targets: Tensor, valid: Tensor, *, cfg: PointSamplingConfig, draw: Draw, r: int
) -> Compared:
    """Sample logits (bilinear) and targets (nearest) at random points of the photo.

    Most of the points are those candidates whose logit is nearest to 0 (PointRend, 3.1).

    Args:
        logits: [M, g, g].
        targets: bool [M, R, R].
        valid: bool [M, R, R], a rectangle at the top left.
        cfg: number and choice of the points.
        draw: the step's random numbers.
        r: the round, a random stream of its own.
    """
    M, R, _ = targets.shape
    important = int(cfg.importance * cfg.number)
    candidates = int(cfg.oversample * important)
    count = candidates + cfg.number - important
    # Width and height of the photo in cells, so no point is drawn from the padding.
    extent = torch.stack([valid[:, 0].sum(1), valid[:, :, 0].sum(1)], dim=1)
    places = draw.uniform(Stream.LOSS_POINTS, index=r, count=2 * count).view(M, count, 2)
    # Only now to the logits' type: a float32 of a float64 below 1 may round up to 1 itself.
    places = (places * extent[:, None]).to(logits.dtype)

    def sample(where: Tensor) -> Tensor:
        # From pixels [0, R] to grid_sample's [-1, 1], whose ends are the outer edges of the cells.
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
        # By index and without a graph; the chosen logits are sampled again with one below.
        kept = places[:, :candidates].gather(1, chosen[..., None].expand(-1, -1, 2))
        places = torch.cat([kept, places[:, candidates:]], dim=1)
        # Nearest cell: a target between two cells would be no bool any more.
        cells = places.long().clamp(0, R - 1)
        target = targets.flatten(1).gather(1, cells[..., 1] * R + cells[..., 0])
    return Compared(logits=sample(places), target=target, valid=torch.ones_like(target))


def _compare(
    logits: Tensor, targets: Tensor, valid: Tensor, *, cfg: LossConfig, draw: Draw | None, r: int
) -> Compared:
    """Bring one mask [M, g, g] per prompt and its target [M, R, R] to the same places."""
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
    return Compared(logits=logits.flatten(1), target=targets.flatten(1), valid=valid.flatten(1))


def mask_losses(
    prediction: Prediction,
    targets: Tensor,
    valid: Tensor,
    *,
    cfg: LossConfig,
    draw: Draw | None = None,
    r: int = 0,
) -> LossTerms:
    """Compute the loss of each mask in one round, in float32 under autocast too.

    Only the best of the K masks receives the gradient of the mask loss (A). The K are compared
    without a graph first, so that one graph is kept, not K.

    Args:
        prediction: K masks for each of M prompts.
        targets: bool [M, R, R]; R = g, or S for `resolution` input and points.
        valid: bool [M, R, R], cells that show the photo (`grid.valid_grid`).
        cfg: weights and readings.
        draw: the step's random numbers; only `resolution=points` needs them.
        r: the round, for the same purpose.

    Raises:
        ValueError: the masks have another side than `resolution` wants, or `draw` is missing.
    """
    M, K, g, _ = prediction.mask_logits.shape
    logits, predicted = prediction.mask_logits, prediction.iou
    if logits.dtype != torch.float64:
        # float16 cannot hold the sum over 65,536 cells.
        logits, predicted = logits.float(), predicted.float()
    targets = targets != 0

    def terms_of(masks: Tensor) -> dict[str, Tensor]:
        return mask_terms(_compare(masks, targets, valid, cfg=cfg, draw=draw, r=r), cfg)

    best = torch.zeros(M, dtype=torch.long, device=logits.device)
    chosen = logits[:, 0]
    # A single mask is the best of one: half the forward work of the loss is spared.
    if K > 1:
        with torch.no_grad():
            best = torch.stack([weighted(terms_of(m), cfg) for m in logits.unbind(1)]).argmin(0)
        chosen = logits.gather(1, best[:, None, None, None].expand(M, 1, g, g))[:, 0]
    terms = terms_of(chosen)

    # On the grid whatever `resolution` is: this is the IoU of the mask that is fed back.
    real_iou = mask_iou(logits, to_grid(targets, g), to_grid(valid, g))
    # The real IoU carries no gradient: thresholding at 0 has none.
    squared = (predicted - real_iou).square()
    every = IouMasks(cfg.iou_masks) == IouMasks.all
    iou_loss = squared.mean(1) if every else squared.gather(1, best[:, None])[:, 0]
    return LossTerms(
        total=weighted(terms, cfg) + cfg.iou_weight * iou_loss,
        named={name: term.detach() for name, term in {**terms, "iou": iou_loss}.items()},
        real_iou=real_iou,
        best=best,
    )
