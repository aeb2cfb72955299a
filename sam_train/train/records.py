"""Figures of one training step for metrics.csv: means per round over the masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from sam_train.train.objectives.base import RoundOutcome


@dataclass(slots=True, kw_only=True)
class RoundFigures:
    """Means per round over the masks of all ranks, on the host."""

    numbers: list[int]
    """The rounds, counted from 0; each list below has one value for each."""
    loss: list[float]
    iou: list[float]
    """Real IoU, on the grid of the logits, of the mask with the highest predicted IoU."""
    predicted_iou: list[float]
    """The IoU that the head predicts for that mask."""
    terms: dict[str, list[float]]
    """The terms of the loss by name, unweighted."""


@dataclass(slots=True)
class RoundLog:
    """Sums per round, detached and on the device, so that keeping them never waits for it."""

    sums: list[Tensor] = field(default_factory=list)
    """float32 [4 + terms] per round: loss, real IoU, predicted IoU, number of masks, then the
    terms."""
    numbers: list[int] = field(default_factory=list)
    """The round of each entry of `sums`."""
    names: list[str] = field(default_factory=list)
    """The terms' names."""

    def add(self, outcome: RoundOutcome) -> None:
        """Add one round of M masks."""
        terms = outcome.terms
        with torch.no_grad():
            # The mask of highest predicted IoU is the one that is fed back and shown, not the best
            # one.
            predicted, carried = outcome.prediction.iou.detach().float().max(dim=1, keepdim=True)
            real = terms.real_iou.detach().float().gather(1, carried)
            # On the device: a host number would be copied there, and the copy waits.
            count = predicted.new_full((), predicted.shape[0])
            named = [term.detach().float().sum() for term in terms.named.values()]
            total = terms.total.detach().float().sum()
            self.sums.append(torch.stack([total, real.sum(), predicted.sum(), count, *named]))
        self.numbers.append(outcome.r)
        self.names = list(terms.named)

    def add_micro_batch(self, other: RoundLog) -> None:
        """Add the same rounds of another micro-batch of the step."""
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]

    def figures(self) -> RoundFigures:
        """Return the means, summed over ranks first.

        Waits for the device and is a collective: call it on every rank, on logging steps only.
        """
        sums = torch.stack(self.sums)
        # Sums first: ranks have different numbers of masks, so a mean of means would be wrong.
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(sums)
        loss, iou, predicted_iou, count, *terms = sums.cpu().unbind(1)
        # A step may have no masks at all on any rank.
        masks = count.clamp(min=1)
        return RoundFigures(
            numbers=self.numbers,
            loss=(loss / masks).tolist(),
            iou=(iou / masks).tolist(),
            predicted_iou=(predicted_iou / masks).tolist(),
            terms={n: (t / masks).tolist() for n, t in zip(self.names, terms, strict=True)},
        )
