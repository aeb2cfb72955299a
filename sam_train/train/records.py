"""What one training step leaves behind for those who watch: three means per round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from sam_train.types import Prediction

if TYPE_CHECKING:
    from sam_train.train.losses import LossTerms


@dataclass(slots=True, kw_only=True)
class RoundFigures:
    """Means per round over the masks of all ranks, on the host."""

    loss: list[float]
    iou: list[float]
    """Real IoU, on the loss grid, of the mask with the highest predicted IoU."""
    predicted_iou: list[float]
    """What the IoU head said of that mask."""


@dataclass(slots=True)
class RoundLog:
    """Sums per round, detached and on the device, so that keeping them never waits for it."""

    sums: list[Tensor] = field(default_factory=list)
    """Per round float32 [4]: loss, real IoU, predicted IoU, number of masks."""

    def add(self, terms: LossTerms, prediction: Prediction) -> None:
        """Note one round of M masks.

        Args:
            terms: per mask `total` [M], and the real IoU of each returned mask `real_iou` [M, K].
            prediction: its `iou` [M, K] says which of the K masks is carried on.
        """
        with torch.no_grad():
            predicted, carried = prediction.iou.detach().float().max(dim=1, keepdim=True)
            real = terms.real_iou.detach().float().gather(1, carried)
            count = predicted.new_full((), predicted.shape[0])
            self.sums.append(
                torch.stack(
                    [terms.total.detach().float().sum(), real.sum(), predicted.sum(), count]
                )
            )

    def add_turn(self, other: RoundLog) -> None:
        """Add the rounds of another batch of the same step."""
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]

    def figures(self) -> RoundFigures:
        """The means, summed over ranks first.

        Waits for the device and is a collective: call it on every rank, on logging steps only.
        """
        sums = torch.stack(self.sums)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
        table = sums.cpu()
        means = (table[:, :3] / table[:, 3:].clamp(min=1)).T.tolist()
        return RoundFigures(loss=means[0], iou=means[1], predicted_iou=means[2])
