"""The number of masks of a whole step, known before its first micro-batch.

A step's loss is a mean over all of its masks. With `trainer.accumulate` their number is only known
when the last micro-batch is drawn. So all of a step's are drawn before the first is handed out, and
each can be weighed right, whoever adds up the gradients (DDP, FSDP2, DeepSpeed).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from sam_train.data.feed.loader import Loader
from sam_train.types import Batch


class Turns(Loader):
    """The batches of a loader that begins with a whole step, each with its step's masks."""

    def __init__(self, batches: Loader, *, turns: int) -> None:
        """Args:
        turns: this rank's batches per step; so many are held in memory.
        """
        self._batches = batches
        self._turns = turns

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches with `step_masks`; a step that the loader cannot fill any more is left
        out."""
        batches = iter(self._batches)
        # The whole first step, before anything of it goes out.
        step = deque(islice(batches, self._turns))
        while len(step) == self._turns:
            masks = sum(batch.num_masks for batch in step)
            following: deque[Batch] = deque()
            while step:
                # Popped before it goes out, so that no batch is held longer than needed.
                yield replace(step.popleft(), step_masks=masks)
                # One for each that went out: the workers, who prepare only a few ahead, would
                # otherwise stall during a step of many micro-batches.
                following.extend(islice(batches, 1))
            step = following
