"""Settings of the simulated person: clicks, boxes and the schedule of the rounds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from sam_train.errors import UserError
from sam_train.settings.sections import check_section, run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig


class NoiseLimit(StrEnum):
    """Readings of `PromptsConfig.box_noise_limit`."""

    draw = "draw"
    """The noise itself is clamped to it."""
    deviation = "deviation"
    """The standard deviation is at most it; the noise is unbounded."""


class Carry(StrEnum):
    """Choices of the mask that is fed on and decides the error region."""

    predicted_iou = "predicted_iou"
    """The one the model believes in, as a person would be shown it."""
    real_iou = "real_iou"
    """The one that fits best."""


@dataclass(slots=True)
class Stage:
    """An early part of training with fewer rounds."""

    until: float = setting(1.0, above=0, maximum=1)
    """The stage ends at this fraction of the training steps."""
    points: int = setting(8, minimum=0)
    """Clicks after the first prompt."""
    mask_only: int = setting(2, minimum=0)
    """Rounds without a new click."""


@section("prompts", order=50, resume="applies")
@dataclass(slots=True)
class PromptsConfig:
    """The simulated person. Defaults: the paper, section A, "Training algorithm"."""

    points: int = setting(8, minimum=0)
    """Clicks after the first prompt: "8 iteratively sampled points". Data engine: 4 (A)."""
    mask_only: int = setting(2, minimum=0)
    """Rounds that add no click: the last one, and the others at random places between the clicks,
    per mask (A: "one is inserted randomly among the 8", "the other is always at the end")."""
    box_probability: float = setting(0.5, minimum=0, maximum=1)
    """A mask begins with its box with this probability, else with `first` (A: equal). Data engine:
    0 (A: point and mask prompts only)."""
    first: list[str] = setting(["point"])
    """Kinds of first prompt for the masks that do not begin with their box, each as likely: point,
    box, loose_box, two_points, point_and_negative, or one that a plug-in file registers. A name
    that stands twice is twice as likely."""
    box_noise: float = setting(0.1, minimum=0)
    """Standard deviation of the noise of a box coordinate, as a fraction of that side (A: 10 %)."""
    box_noise_limit: float = setting(20.0, minimum=0)
    """Bound of that noise in pixels of the input frame (A: 20 pixels of 1024)."""
    box_noise_limits: NoiseLimit = NoiseLimit.draw
    """The quantity that is bounded, which the wording leaves open. `draw`: a box is never more than
    the bound off, the plainer reading; a deviation over 20 pixels is rare anyway."""
    box_outward: int = setting(20, minimum=0)
    """Most pixels of the input frame by which each side of a `loose_box` is moved outward, whole
    numbers from 0 as likely (MedSAM: 20 of 1024)."""
    carry: Carry = Carry.predicted_iou
    """The mask of three that is fed on (A: highest predicted IoU). `real_iou` for runs so short
    that the predicted IoU means nothing yet."""
    multimask_first_round: bool = True
    """Round 0, a single prompt, asks for three masks; later rounds for one (A)."""
    feedback_gradient: bool = False
    """Let gradient flow through the logits that are fed back, as sam2 does (the paper is silent).
    Without it each round's graph is freed before the next; with it memory grows with the rounds."""
    curriculum: list[Stage] = setting([])
    """Stages with fewer rounds before the full schedule, in order of `until`. Empty in the paper's
    recipes; short runs leave the plateau of empty masks sooner with it."""


def check(cfg: PromptsConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    check_section(cfg)
    # Even where every mask begins with a box: all kinds are drawn before one is chosen.
    if not cfg.first:
        raise UserError("prompts.first is empty: name a kind, such as prompts.first=[point]")
    # The kinds stand beside what draws them, and importing that takes a second.
    from sam_train.prompts.first import FIRST_PROMPTS  # noqa: PLC0415

    for name in cfg.first:
        FIRST_PROMPTS[name]
    ends = [stage.until for stage in cfg.curriculum]
    if ends != sorted(ends):
        raise UserError(f"prompts.curriculum: `until` must rise from stage to stage, not {ends}")


@run_check
def _check_run(cfg: RunConfig) -> None:
    check(cfg.prompts)
