"""A way of fine-tuning chooses what of the image encoder is trained.

Prompt encoder and decoder are always trained. Together they hold under 1 % of ViT-H, and their
backward pass, which runs round by round, costs the same whatever is frozen in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sam_train.errors import UserError
from sam_train.model.encoders.base import ImageEncoder
from sam_train.model.sam import Sam
from sam_train.runtime.registry import Registry


class Tuning(ABC):
    """A choice of what is trained."""

    @abstractmethod
    def apply(self, encoder: ImageEncoder) -> None:
        """Take what is not trained out of training; names and shapes of the state dict stay.

        It is called once, before the encoder is compiled or split. What stays must get a gradient
        in every step.
        """


TUNINGS: Registry[Tuning] = Registry("optim.tune")


def tune(sam: Sam, name: str, *, frozen_blocks: int) -> None:
    """Choose the parameters that are trained.

    Args:
        sam: the model, of which all is trained so far.
        name: `optim.tune`.
        frozen_blocks: `optim.frozen_blocks`; takes the stem and the first units out of training
            under any tuning, which spares their backward pass.

    Raises:
        UserError: unknown name, or the encoder has fewer blocks.
    """
    # First the tuning, which sets both ways; freezing only takes away.
    TUNINGS[name].apply(sam.image_encoder)
    units = sam.image_encoder.units()
    if not 0 <= frozen_blocks <= len(units):
        raise UserError(
            f"optim.frozen_blocks={frozen_blocks} must be from 0 to {len(units)}, the encoder's "
            "depth"
        )
    # A trained stem would need the backward pass through the frozen units after all.
    if frozen_blocks:
        for parameter in sam.image_encoder.stem():
            parameter.requires_grad_(False)
    for unit in units[:frozen_blocks]:
        unit.requires_grad_(False)
