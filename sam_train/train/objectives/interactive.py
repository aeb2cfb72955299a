"""THE STEP of the paper (A, "Training algorithm"): a simulated person corrects every mask.

`prompts/rounds.py` chooses the prompts of a round, `losses.py` computes the loss of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sam_train.model import Sam
from sam_train.prompts import Rounds, schedule
from sam_train.train.losses import mask_losses
from sam_train.train.objectives.base import OBJECTIVES, At, Objective, RoundOutcome
from sam_train.types import Batch


@OBJECTIVES.named("interactive")
class Interactive(Objective):
    """The paper's 11 rounds: a first prompt, 8 clicks on errors, 2 rounds without a click."""

    def number(self, at: At) -> int:
        """Return the rounds of the curriculum's stage: 11 in the paper."""
        return schedule(self.cfg.prompts, progress=at.progress).number

    def rounds(
        self, model: Sam, batch: Batch, at: At, embeddings: Tensor
    ) -> Iterator[RoundOutcome]:
        """Yield each round after its answer, and prompt the next where that answer is wrong."""
        rounds = Rounds(
            self.cfg.prompts,
            batch,
            seed=at.seed,
            step=at.step,
            progress=at.progress,
            image_size=model.image_size,
            grid_size=model.grid_size,
        )
        prompts = rounds.first()
        for r in range(rounds.number):
            prediction = model.decode(
                embeddings,
                batch.image_index,
                prompts,
                # Both from the host's knowledge of the round: a look at tensors would wait for the
                # device.
                multimask=rounds.multimask(r),
                all_present=rounds.all_present(r),
            )
            terms = mask_losses(
                prediction,
                rounds.targets,
                rounds.valid,
                cfg=self.cfg.loss,
                draw=rounds.draw,
                r=r,
            )
            yield RoundOutcome(r=r, prompts=prompts, prediction=prediction, terms=terms)
            # After the yield: by then the caller has run this round's backward and freed its graph.
            if r + 1 < rounds.number:
                prompts = rounds.next(r + 1, prompts, prediction)

    @property
    def joined(self) -> bool:
        """True with `prompts.feedback_gradient`, as sam2 trains."""
        return self.cfg.prompts.feedback_gradient
