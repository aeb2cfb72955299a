"""Iterative training with one backward (RITM: Sofiiuk et al. 2021, "Reviving Iterative Training").

It takes about a quarter of the decoder's work, because earlier rounds only find the next prompt.
`plan` counts one step, whose round is drawn like any other's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sam_train.model import Sam
from sam_train.prompts.rng import Stream, number_below
from sam_train.train.objectives.base import OBJECTIVES, At, RoundOutcome
from sam_train.train.objectives.interactive import Interactive
from sam_train.types import Batch


@OBJECTIVES.named("one_round")
class OneRound(Interactive):
    """A round of the interactive ones, drawn for each step; those before it have no gradient."""

    def number(self, at: At) -> int:
        """Return 1: one round is learnt from."""
        return 1

    def rounds(
        self, model: Sam, batch: Batch, at: At, embeddings: Tensor
    ) -> Iterator[RoundOutcome]:
        """Run the rounds up to a drawn one without gradient, and yield that one."""
        rounds = super().rounds(model, batch, at, embeddings)
        number = super().number(at)
        # On the host, because it decides which kernels run; the same for all masks and ranks.
        learnt = number_below(number, seed=at.seed, step=at.step, stream=Stream.LEARNT_ROUND)
        with torch.no_grad():
            for _ in range(learnt):
                next(rounds)
        # A generator computes in the grad mode of whoever asks for its next item.
        yield next(rounds)
