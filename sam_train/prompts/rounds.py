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

from sam_train.masks.grid import mask_iou, to_grid, valid_grid
from sam_train.prompts.clicks import error_click
from sam_train.prompts.config import Carry, NoiseLimit, PromptsConfig, Stage
from sam_train.prompts.rng import Draw, Stream
from sam_train.types import (
    ABSENT,
    BOX_BOTTOM_RIGHT,
    BOX_TOP_LEFT,
    FOREGROUND,
    PAD,
    Batch,
    Prediction,
    Prompts,
)


@dataclass(slots=True, kw_only=True, frozen=True)
class Schedule:
    """How many rounds of which kind a step has."""

    points: int
    mask_only: int

    @property
    def number(self) -> int:
        """Rounds in all, the first prompt included."""
        return 1 + self.points + self.mask_only

    def tokens(self, r: int) -> int:
        """T_r, the same for all masks."""
        return 2 + min(r, self.points)

    def adds_clicks(self, r: int) -> bool:
        """Whether any mask can get a click in round r."""
        return 0 < r < self.number - (self.mask_only > 0) and self.points > 0

    def all_present(self, r: int) -> bool:
        """Whether it is certain that no mask has an ABSENT slot in round r."""
        return not (self._places and self._first_place <= r <= self._last_place)

    @property
    def _first_place(self) -> int:
        """The first round that can be mask-only, except the last round: after one click."""
        return min(2, 1 + self.points)

    @property
    def _last_place(self) -> int:
        """The last round that can be mask-only and comes before a click where there are two."""
        return self.number - (3 if self.points >= 2 else 2)

    @property
    def _places(self) -> int:
        """How many places the mask-only rounds before the last one choose from."""
        return self._last_place - self._first_place + 1 if self.mask_only > 1 else 0

    def clicks(self, draw: Draw) -> Tensor:
        """bool [M, number]: whether mask m gets a click in round r.

        The last round is mask-only, and the other mask-only rounds are a uniformly random subset
        of those strictly between the first and the last click.
        """
        clicks = torch.ones(
            (draw.ids.shape[0], self.number), dtype=torch.bool, device=draw.ids.device
        )
        clicks[:, 0] = False
        if self.mask_only:
            clicks[:, -1] = False
        if self._places:
            keys = draw.uniform(Stream.MASK_ONLY_ROUND, count=self._places)
            rank = keys.argsort(dim=1).argsort(dim=1)
            clicks[:, self._first_place : self._last_place + 1] = rank >= self.mask_only - 1
        return clicks


def schedule(cfg: PromptsConfig, *, progress: float = 1.0) -> Schedule:
    """The rounds at this point of training; a pure function, so that all ranks agree.

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
    current = [stage for stage in cfg.curriculum if progress < stage.until]
    if current:
        return Schedule(points=current[0].points, mask_only=current[0].mask_only)
    return Schedule(points=cfg.points, mask_only=cfg.mask_only)


def noisy_boxes(boxes: Tensor, *, image_sizes: Tensor, cfg: PromptsConfig, draw: Draw) -> Tensor:
    """Boxes as a person would draw them (A: 10 % of the side, at most 20 pixels).

    Args:
        boxes: float32 [M, 4] x0 y0 x1 y1, input frame.
        image_sizes: int64 [M, 2] (h, w) of each mask's photo in the input frame.
        cfg: noise and its limit.
        draw: of the step.

    Returns:
        float32 [M, 4] within the photo, top left before bottom right.
    """
    limit = cfg.box_noise_limit
    deviation = cfg.box_noise * (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    if cfg.box_noise_limits == NoiseLimit.deviation:
        deviation = deviation.clamp(max=limit)
    noise = draw.normal(Stream.BOX_NOISE, count=4).float() * deviation
    if cfg.box_noise_limits == NoiseLimit.draw:
        noise = noise.clamp(-limit, limit)
    corners = (boxes + noise).view(-1, 2, 2)
    farthest = (image_sizes.flip(-1) - 1)[:, None].to(corners.dtype)
    corners = torch.minimum(corners.clamp(min=0), farthest)
    return torch.cat([corners.amin(1), corners.amax(1)], dim=1)


def first_prompts(
    points: Tensor, *, boxes: Tensor, image_sizes: Tensor, cfg: PromptsConfig, draw: Draw
) -> Prompts:
    """Round 0: per mask its noisy box with probability `box_probability`, else its point.

    Args:
        points: float32 [M, 2] (x, y), input frame: a foreground pixel, drawn uniformly.
        boxes: float32 [M, 4] x0 y0 x1 y1, input frame.
        image_sizes: int64 [M, 2] (h, w) of each mask's photo in the input frame.
        cfg: mix and noise.
        draw: of the step.

    Returns:
        Two tokens per mask, no mask logits.
    """
    is_box = draw.uniform(Stream.FIRST_PROMPT) < cfg.box_probability
    corners = noisy_boxes(boxes, image_sizes=image_sizes, cfg=cfg, draw=draw).view(-1, 2, 2)
    point = torch.stack([points, torch.zeros_like(points)], dim=1)
    # From scalars: a tensor made of a list on the host would wait for the device.
    first = torch.where(is_box, BOX_TOP_LEFT, FOREGROUND)
    second = torch.where(is_box, BOX_BOTTOM_RIGHT, PAD)
    return Prompts(
        coords=torch.where(is_box[..., None], corners, point),
        labels=torch.cat([first, second], dim=1),
    )


def carried_logits(
    prediction: Prediction, *, targets: Tensor, valid: Tensor, carry: Carry
) -> Tensor:
    """The mask that is fed on: [M, 1, g, g] logits, not binarised and with their gradient.

    Args:
        prediction: of the round, K masks.
        targets: bool [M, g, g].
        valid: bool [M, g, g].
        carry: how to choose among the K.
    """
    logits = prediction.mask_logits
    if logits.shape[1] == 1:
        return logits
    believed = Carry(carry) == Carry.predicted_iou
    score = prediction.iou.detach() if believed else mask_iou(logits, targets, valid)
    best = score.argmax(dim=1)
    return logits.gather(1, best[:, None, None, None].expand(-1, 1, *logits.shape[2:]))


class Rounds:
    """The simulated person of one training step.

    Attributes:
        number: rounds of this step.
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

        side = batch.masks.shape[-1]
        self.targets, self.valid = batch.masks != 0, valid(side)
        same = side == grid_size
        self._targets = self.targets if same else to_grid(batch.masks, grid_size)
        self._valid = self.valid if same else valid(grid_size)

    def multimask(self, r: int) -> bool:
        """Whether round r asks for three masks: a single prompt is ambiguous, more are not."""
        return r == 0 and self._cfg.multimask_first_round

    def all_present(self, r: int) -> bool:
        """Whether it is certain that round r has no ABSENT slot (so that no mask is needed)."""
        return self._schedule.all_present(r)

    def first(self) -> Prompts:
        """The prompts of round 0."""
        return first_prompts(
            self._batch.points,
            boxes=self._batch.boxes,
            image_sizes=self._batch.image_sizes[self._batch.image_index],
            cfg=self._cfg,
            draw=self.draw,
        )

    def next(self, r: int, prompts: Prompts, prediction: Prediction) -> Prompts:
        """The prompts of round r (from 1).

        Args:
            r: the round that they are for.
            prompts: of round r - 1.
            prediction: of round r - 1; what is kept of it carries no gradient, unless
                `feedback_gradient` is set.

        Returns:
            All earlier prompts, the new clicks, and the logits that are fed back.
        """
        logits = carried_logits(
            prediction, targets=self._targets, valid=self._valid, carry=self._cfg.carry
        )
        if not self._cfg.feedback_gradient:
            logits = logits.detach()
        if not self._schedule.adds_clicks(r):
            return Prompts(coords=prompts.coords, labels=prompts.labels, mask_logits=logits)
        clicks = error_click(
            logits.detach()[:, 0],
            targets=self._targets,
            valid=self._valid,
            points=self._batch.points,
            u=self.draw.uniform(Stream.CLICK, index=r)[:, 0],
            image_size=self._image_size,
        )
        grow = self._schedule.tokens(r) - prompts.labels.shape[1]
        coords = F.pad(prompts.coords, (0, 0, 0, grow))
        labels = F.pad(prompts.labels, (0, grow), value=ABSENT)
        slots = torch.arange(labels.shape[1], device=labels.device)
        here = (slots == 1 + self._clicks_so_far[:, r, None]) & self._clicks[:, r, None]
        return Prompts(
            coords=torch.where(here[..., None], clicks.coords[:, None], coords),
            labels=torch.where(here, clicks.labels[:, None], labels),
            mask_logits=logits,
        )
