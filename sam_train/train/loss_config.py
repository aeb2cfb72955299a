"""Settings of the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig


class Resolution(StrEnum):
    """The grid on which predicted and true masks are compared."""

    grid = "grid"
    """The decoder's g x g logits (256 x 256 in the paper's model): R = g."""
    input = "input"
    """Logits upscaled bilinearly to the input frame: R = S, 16 times the cells."""
    points = "points"
    """Points drawn mostly where the logits are undecided, against targets of R = S."""


class IouMasks(StrEnum):
    """The masks whose predicted IoU is trained."""

    all = "all"
    """The mean over the K masks."""
    best = "best"
    """Only the mask that the mask loss chose."""


@dataclass(slots=True)
class PointSamplingConfig:
    """Importance sampling as in PointRend (Kirillov et al. 2020); for `resolution=points`."""

    number: int = setting(12544, minimum=1)
    """Points per mask: 112 x 112, as Mask2Former takes."""
    oversample: float = setting(3.0, minimum=1)
    """Candidates per point that is chosen by its logit."""
    importance: float = setting(0.75, minimum=0, maximum=1)
    """Fraction of the points chosen for a logit near 0; the rest is uniform over the photo."""


@dataclass(slots=True)
class TermConfig:
    """A further term of the mask loss."""

    name: str = ""
    """The name under which a plug-in file registers it."""
    weight: float = setting(1.0, minimum=0)
    """The factor of the term in the mask loss, beside 20 focal + 1 dice."""


@section("loss", order=60, resume="applies")
@dataclass(slots=True)
class LossConfig:
    """Weights and readings of the loss. Citations: the paper, section A."""

    focal_weight: float = setting(20.0, minimum=0)
    """A: focal to dice 20:1."""
    dice_weight: float = setting(1.0, minimum=0)
    """A: focal to dice 20:1."""
    iou_weight: float = setting(1.0, minimum=0)
    """A: the mean squared error of the predicted IoU enters with 1.0."""
    focal_alpha: float = setting(0.25, minimum=0, maximum=1)
    """Weight of foreground; background has 1 - alpha. The paper is silent: RetinaNet's, and sam2
    trains with it."""
    focal_gamma: float = setting(2.0, minimum=0)
    """Exponent of the focal loss. The paper is silent: RetinaNet's, and sam2 trains with it."""
    dice_smoothing: float = setting(1.0, minimum=0)
    """Added to numerator and denominator of the dice ratio, in cells. The paper is silent: the
    field's 1 keeps a mask of no cells at all finite and hardly touches any other."""
    resolution: Resolution = Resolution.grid
    """The grid on which masks are compared. The paper is silent: the logits' own needs no
    upscaling, and a 16th of the memory of the input frame."""
    iou_masks: IouMasks = IouMasks.all
    """The masks whose predicted IoU is trained. The paper is silent: the highest of all three is
    what is fed on and shown, so all three must be comparable."""
    points: PointSamplingConfig = field(default_factory=PointSamplingConfig)
    """Drawing of the points with `resolution=points`."""
    terms: list[TermConfig] = setting([])
    """Further terms of the mask loss, which a plug-in file registers. Empty in the paper."""


def check(cfg: LossConfig) -> None:
    """Refuse values that cannot be meant.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_section(cfg)
    # The terms stand beside what computes them, and importing that takes a second.
    from sam_train.train.losses import MASK_TERMS, weights_of  # noqa: PLC0415

    weights = weights_of(cfg)
    # A name that stands twice leaves one entry in a dict. `iou` is a column of its own.
    if len(weights) < 2 + len(cfg.terms) or "iou" in weights:
        raise UserError(
            "loss.terms: a term stands there once, and focal, dice and iou have weights of their "
            "own: loss.focal_weight, loss.dice_weight and loss.iou_weight"
        )
    for name in weights:
        # For its error, which lists the known names.
        MASK_TERMS[name]


@run_check
def _check_run(cfg: RunConfig) -> None:
    check(cfg.loss)
