"""The paper's 11 rounds (A, "Training algorithm" 1-5), per mask and without a loop over masks.

Rounds are numbered from 0. Round 0 is the first prompt; every later one adds a click on the error
of the round before, or nothing ("mask-only"), and feeds the logits of the round before back.

Layout of the tokens in round r, [M, T_r] with T_r = 2 + min(r, points) for every mask:

    slot 0, 1         the first prompt: point and PAD, or the two corners of the box
    slot 2 .. 1 + c   the c clicks of this mask so far, oldest first
    the rest          ABSENT: this mask has had its mask-only round early, and is a click behind
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sam_train.errors import UserError
from sam_train.masks.grid import mask_iou, to_grid, valid_grid
from sam_train.prompts.clicks import error_click
from sam_train.prompts.config import Carry, PromptsConfig, Stage
from sam_train.prompts.first import FIRST_PROMPTS
from sam_train.prompts.rng import Draw, Stream
from sam_train.types import (
    ABSENT,
    Batch,
    Prediction,
    Prompts,
)


@dataclass(slots=True, kw_only=True, frozen=True)
class Schedule:
    """The rounds of a step by kind."""

    points: int
    mask_only: int

    @property
    def number(self) -> int:
        """Count the rounds, the first prompt included."""
        return 1 + self.points + self.mask_only

    def tokens(self, r: int) -> int:
        """Return T_r, the same for all masks."""
        # One click a round at most. A mask whose mask-only round came early has an ABSENT slot
        # instead.
        return 2 + min(r, self.points)

    def adds_clicks(self, r: int) -> bool:
        """Decide if any mask can get a click in round r."""
        # The last round is mask-only for every mask (A, step 4).
        return 0 < r < self.number - (self.mask_only > 0) and self.points > 0

    def all_present(self, r: int) -> bool:
        """Decide if no mask can have an ABSENT slot in round r."""
        return not (self._places and self._first_place <= r <= self._last_place)

    @property
    def _first_place(self) -> int:
        """Return the first round that can be mask-only, the last one aside: after one click."""
        return min(2, 1 + self.points)

    @property
    def _last_place(self) -> int:
        """Return the last round that can be mask-only; a click follows where there are two."""
        return self.number - (3 if self.points >= 2 else 2)

    @property
    def _places(self) -> int:
        """Count the places that the mask-only rounds before the last one choose from."""
        return self._last_place - self._first_place + 1 if self.mask_only > 1 else 0

    def clicks(self, draw: Draw) -> Tensor:
        """Draw bool [M, number]: mask m gets a click in round r.

        The last round is mask-only, and the other mask-only rounds are a uniformly random subset
        of those strictly between the first and the last click.
        """
        clicks = torch.ones(
            (draw.ids.shape[0], self.number), dtype=torch.bool, device=draw.ids.device
        )
        # Round 0 is the first prompt, which is not counted among the clicks.
        clicks[:, 0] = False
        if self.mask_only:
            clicks[:, -1] = False
        if self._places:
            # The places of the smallest keys: a uniform subset per mask, without a loop.
            keys = draw.uniform(Stream.MASK_ONLY_ROUND, count=self._places)
            rank = keys.argsort(dim=1).argsort(dim=1)
            clicks[:, self._first_place : self._last_place + 1] = rank >= self.mask_only - 1
        return clicks


def schedule(cfg: PromptsConfig, *, progress: float = 1.0) -> Schedule:
    """Return the rounds at this point of training; a pure function, so that all ranks agree.

    Args:
        cfg: with or without a curriculum.
        progress: fraction of the training steps done, 0 to 1.

    Raises:
        ValueError: negative numbers of rounds, or stages out of order.
    """
    ends = [stage.until for stage in cfg.curriculum]
    if ends != sorted(ends):
        raise ValueError(f"prompts.curriculum: `until` must rise from stage to stage, not {ends}")
    parts: list[Stage | PromptsConfig] = [*cfg.curriculum, cfg]
    for part in parts:
        if part.points < 0 or part.mask_only < 0:
            raise ValueError(
                f"prompts: points={part.points} and mask_only={part.mask_only} must not be negative"
            )
    # `until` is exclusive: at progress 1.0 no stage is left and the full schedule applies.
    current = [stage for stage in cfg.curriculum if progress < stage.until]
    if current:
        return Schedule(points=current[0].points, mask_only=current[0].mask_only)
    return Schedule(points=cfg.points, mask_only=cfg.mask_only)


def first_prompts(batch: Batch, *, cfg: PromptsConfig, draw: Draw) -> Prompts:
    """Begin each mask with its box with probability `box_probability`, else with `first`.

    Every kind is drawn for every mask and one is chosen: a rectangular batch, no host sync.

    Args:
        batch: M masks.
        cfg: the mix.
        draw: the step's random numbers.

    Returns:
        Two tokens per mask, no mask logits.

    Raises:
        UserError: a kind reads a field that the samples lack.
    """
    u = draw.uniform(Stream.FIRST_PROMPT)
    chosen = _first_prompt(cfg.first[0], batch, cfg=cfg, draw=draw)
    for k, name in enumerate(cfg.first[1:], start=1):
        start = cfg.box_probability + (1 - cfg.box_probability) * k / len(cfg.first)
        chosen = _choose(u >= start, _first_prompt(name, batch, cfg=cfg, draw=draw), chosen)
    # Chosen last, because u below `box_probability` still carries the first kind's prompt.
    boxes = _first_prompt("box", batch, cfg=cfg, draw=draw)
    return _choose(u < cfg.box_probability, boxes, chosen)


def _first_prompt(name: str, batch: Batch, *, cfg: PromptsConfig, draw: Draw) -> Prompts:
    kind = FIRST_PROMPTS[name]
    for field_name in kind.needs:
        if getattr(batch, field_name, None) is None:
            raise UserError(
                f"prompts.first={name} needs `{field_name}`, which the samples of data.train lack"
            )
    return kind(cfg).draw(batch, draw)


def _choose(here: Tensor, a: Prompts, b: Prompts) -> Prompts:
    """Take the tokens of `a` for the masks that bool `here` [M, 1] marks, else those of `b`."""
    return Prompts(
        coords=torch.where(here[..., None], a.coords, b.coords),
        labels=torch.where(here, a.labels, b.labels),
    )


def carried_logits(
    prediction: Prediction, *, targets: Tensor, valid: Tensor, carry: Carry
) -> Tensor:
    """Choose the mask that is fed back: [M, 1, g, g] logits, unthresholded, with their gradient.

    Args:
        prediction: K masks of this round.
        targets: bool [M, g, g].
        valid: bool [M, g, g].
        carry: the choice among the K.
    """
    logits = prediction.mask_logits
    # One mask was asked for, so there is nothing to choose.
    if logits.shape[1] == 1:
        return logits
    # A: "the mask with the highest predicted IoU", as a user would be shown.
    believed = Carry(carry) == Carry.predicted_iou
    score = prediction.iou.detach() if believed else mask_iou(logits, targets, valid)
    best = score.argmax(dim=1)
    return logits.gather(1, best[:, None, None, None].expand(-1, 1, *logits.shape[2:]))


class Rounds:
    """The simulated person of one training step.

    Attributes:
        number: the count of this step's rounds.
        draw: the step's random numbers.
        targets: bool [M, R, R] ground truth at the resolution of the loss.
        valid: bool [M, R, R] the cells of it that show the photo.
    """

    def __init__(
        self,
        cfg: PromptsConfig,
        batch: Batch,
        *,
        seed: int,
        step: int,
        image_size: int,
        grid_size: int,
        progress: float = 1.0,
    ) -> None:
        """Args: cfg; batch; seed; step; S; g; progress: fraction of the training steps done."""
        self._cfg, self._batch, self._image_size = cfg, batch, image_size
        self._schedule = schedule(cfg, progress=progress)
        self.number = self._schedule.number
        self.draw = Draw(seed=seed, step=step, ids=batch.mask_ids)
        self._clicks = self._schedule.clicks(self.draw)
        self._clicks_so_far = self._clicks.long().cumsum(1)

        def valid(side: int) -> Tensor:
            return valid_grid(
                batch.image_sizes, batch.image_index, grid=side, image_size=image_size
            )

        # The loss may have a finer grid than the logits; error clicks always live on the logits'
        # grid.
        side = batch.masks.shape[-1]
        self.targets, self.valid = batch.masks != 0, valid(side)
        same = side == grid_size
        self._targets = self.targets if same else to_grid(batch.masks, grid_size)
        self._valid = self.valid if same else valid(grid_size)

    def multimask(self, r: int) -> bool:
        """Decide if round r asks for three masks: a single prompt is ambiguous, more are not."""
        return r == 0 and self._cfg.multimask_first_round

    def all_present(self, r: int) -> bool:
        """Decide if round r has no ABSENT slot for certain, so that attention needs no mask."""
        return self._schedule.all_present(r)

    def first(self) -> Prompts:
        """Draw the prompts of round 0."""
        return first_prompts(self._batch, cfg=self._cfg, draw=self.draw)

    def next(self, r: int, prompts: Prompts, prediction: Prediction) -> Prompts:
        """Draw the prompts of round r (from 1).

        Args:
            r: the round that they are for.
            prompts: those of round r - 1.
            prediction: the answer of round r - 1; its logits are detached, unless
                `feedback_gradient` is set.

        Returns:
            All earlier prompts, the new clicks, and the logits that are fed back.
        """
        logits = carried_logits(
            prediction, targets=self._targets, valid=self._valid, carry=self._cfg.carry
        )
        if not self._cfg.feedback_gradient:
            # The paper is silent here. Detached, each round's graph is freed before the next
            # begins.
            logits = logits.detach()
        # A mask-only round (A, step 4) repeats the prompts; only the fed-back logits are new.
        if not self._schedule.adds_clicks(r):
            return Prompts(coords=prompts.coords, labels=prompts.labels, mask_logits=logits)
        clicks = error_click(
            logits.detach()[:, 0],
            targets=self._targets,
            valid=self._valid,
            points=self._batch.points,
            # The round is part of the key: its number does not depend on how many were drawn
            # before.
            u=self.draw.uniform(Stream.CLICK, index=r)[:, 0],
            image_size=self._image_size,
        )
        # T grows by one slot or none, for all masks alike: the host knows every shape.
        grow = self._schedule.tokens(r) - prompts.labels.shape[1]
        coords = F.pad(prompts.coords, (0, 0, 0, grow))
        # The zeros that fill `coords` are never seen: an ABSENT token is hidden from every softmax.
        labels = F.pad(prompts.labels, (0, grow), value=ABSENT)
        slots = torch.arange(labels.shape[1], device=labels.device)
        # Slots 0 and 1 hold the first prompt, so click number c stands in slot 1 + c.
        here = (slots == 1 + self._clicks_so_far[:, r, None]) & self._clicks[:, r, None]
        return Prompts(
            coords=torch.where(here[..., None], clicks.coords[:, None], coords),
            labels=torch.where(here, clicks.labels[:, None], labels),
            mask_logits=logits,
        )
