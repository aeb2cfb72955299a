"""A way of fine-tuning chooses what of the image encoder is trained.

Prompt encoder and decoder are always trained. Together they hold under 1 % of ViT-H, and their
backward pass, which runs round by round, costs the same whatever is frozen in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sam_train.errors import UserError
from sam_train.model.encoders.base import ImageEncoder
from sam_train.model.lora_config import LoraConfig
from sam_train.model.sam import Sam
from sam_train.runtime.registry import Registry

JOIN = "+"
"""The sign between ways of fine-tuning that are used together."""
_ALIASES = {"full": "all"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The settings that say how far a way of fine-tuning reaches."""

    frozen_blocks: int
    """`optim.frozen_blocks`, at most the encoder's units."""
    last_blocks: int
    """`optim.last_blocks`."""
    lora: LoraConfig


class Tuning(ABC):
    """A choice of what is trained."""

    alone: ClassVar[bool] = False
    """True where joining it to another way would mean nothing."""
    adds: ClassVar[bool] = False
    """True where it adds parameters; such ways come last, and see what the others train."""

    @abstractmethod
    def apply(self, encoder: ImageEncoder, extent: Extent) -> None:
        """Put its share of a frozen encoder into training.

        It is called once, before the encoder is compiled or split. Names and shapes of the
        encoder's own tensors stay. What is trained must get a gradient in every step.
        """


TUNINGS: Registry[Tuning] = Registry("optim.tune")


def ways_of(name: str) -> list[Tuning]:
    """Read `optim.tune`: one way of fine-tuning, or several joined by +.

    Raises:
        UserError: an unknown way, one named twice, or one that does not go with another.
    """
    names = [_ALIASES.get(part.strip(), part.strip()) for part in name.split(JOIN)]
    ways = {part: TUNINGS[part] for part in names}
    if len(ways) < len(names):
        raise UserError(f"optim.tune={name}: names a way twice; leave one out")
    for part, way in ways.items():
        if way.alone and len(ways) > 1:
            rest = JOIN.join(other for other in ways if other != part)
            raise UserError(
                f"optim.tune={name}: {part} is joined to nothing, since it says of the whole "
                f"encoder what is trained; use {part} or {rest}"
            )
    # Stable, so those that only open parameters keep their order.
    return sorted(ways.values(), key=lambda way: way.adds)


def tune(
    sam: Sam,
    name: str,
    *,
    frozen_blocks: int = 0,
    last_blocks: int = 2,
    lora: LoraConfig | None = None,
) -> None:
    """Choose the parameters that are trained.

    Args:
        sam: the model, of which prompt encoder and decoder are trained.
        name: `optim.tune`.
        frozen_blocks: `optim.frozen_blocks`; takes the stem and the first units out of training
            under any tuning, which spares their backward pass.
        last_blocks: `optim.last_blocks`, of the way of that name.
        lora: the adapters of the way of that name; None for the defaults.

    Raises:
        UserError: unknown name, ways that do not go together, fewer blocks in the encoder, or
            adapters for layers that it does not have.
    """
    ways, encoder = ways_of(name), sam.image_encoder
    units = encoder.units()
    if not 0 <= frozen_blocks <= len(units):
        raise UserError(
            f"optim.frozen_blocks={frozen_blocks} must be from 0 to {len(units)}, the encoder's "
            "depth"
        )
    extent = Extent(frozen_blocks=frozen_blocks, last_blocks=last_blocks, lora=lora or LoraConfig())
    # First everything frozen, so that joined ways are the union of theirs.
    encoder.requires_grad_(False)
    for way in ways:
        way.apply(encoder, extent)
    # A trained stem would need the backward pass through the frozen units after all.
    if frozen_blocks:
        for parameter in encoder.stem():
            parameter.requires_grad_(False)
    for unit in units[:frozen_blocks]:
        unit.requires_grad_(False)
