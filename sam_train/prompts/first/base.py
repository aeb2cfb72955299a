"""The interface of a first prompt: two tokens for each mask.

Two tokens whatever the kind, so that a mix of kinds is one rectangular tensor, see
`types.Prompts`. A kind that needs one token fills the other with PAD.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from sam_train.runtime.registry import Registry

if TYPE_CHECKING:
    from sam_train.prompts.config import PromptsConfig
    from sam_train.prompts.rng import Draw
    from sam_train.types import Batch, Prompts


class FirstPrompt(ABC):
    """A way in which a simulated person begins."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of `types.Batch` that the kind reads and that a sample may lack."""

    is_box: ClassVar[bool] = False
    """A kind that gives boxes: a model that sees no other is measured by its boxes."""

    def __init__(self, cfg: PromptsConfig) -> None:
        self.cfg = cfg

    @abstractmethod
    def draw(self, batch: Batch, draw: Draw) -> Prompts:
        """Begin every mask of the batch in this way; the mix is chosen elsewhere.

        Must not wait for the device: no `.item()`, no boolean indexing, no loop over masks.

        Args:
            batch: M masks, their points and boxes in the input frame.
            draw: the step's random numbers, a function of (seed, step, mask).

        Returns:
            `coords` [M, 2, 2] and `labels` [M, 2], without mask logits.
        """


FIRST_PROMPTS: Registry[type[FirstPrompt]] = Registry("prompts.first")
"""The kinds by name; `@FIRST_PROMPTS.named("name")` above a class adds one."""
