"""How many masks a whole step has, known before its first turn.

A step's loss is a mean over all of its masks. With `trainer.accumulate` turns their number is only
known when the last turn is drawn, so a step's turns are drawn together: then every turn can be
weighed right, whoever adds up the gradients (DDP, FSDP2, DeepSpeed).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from sam_train.data.loader import Loader
from sam_train.types import Batch


class Turns(Loader):
    """The batches of a loader that begins with a whole step, each with its step's masks."""

    def __init__(self, batches: Loader, *, turns: int) -> None:
        """Args:
        turns: this rank's batches per step, held in memory together.
        """
        self._batches = batches
        self._turns = turns

    def __iter__(self) -> Iterator[Batch]:
        """Batches with `step_masks`; a step that the loader cannot fill any more is left out."""
        batches = iter(self._batches)
        while len(step := list(islice(batches, self._turns))) == self._turns:
            masks = sum(batch.num_masks for batch in step)
            yield from (replace(batch, step_masks=masks) for batch in step)


__all__ = ["Turns"]
