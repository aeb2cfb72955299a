"""`optim.tune=last_blocks`: the encoder's last units and what lies behind them, the neck."""

from __future__ import annotations

from sam_train.errors import UserError
from sam_train.model.adapters.base import TUNINGS, Extent, Tuning
from sam_train.model.encoders.base import ImageEncoder


@TUNINGS.register("last_blocks")
class LastBlocks(Tuning):
    """Train the last `optim.last_blocks` units and the neck.

    Alone it is `optim.tune=all` with the other units in `optim.frozen_blocks`; counted from the
    end it needs no depth, and it can be joined to adapters in the units before.
    """

    def apply(self, encoder: ImageEncoder, extent: Extent) -> None:
        """Open them."""
        units, count = encoder.units(), extent.last_blocks
        most = len(units) - extent.frozen_blocks
        if not 1 <= count <= most:
            raise UserError(
                f"optim.last_blocks={count} must be from 1 to {most}, the encoder's {len(units)} "
                f"blocks less optim.frozen_blocks={extent.frozen_blocks}"
            )
        for unit in units[-count:]:
            unit.requires_grad_(True)
        # The neck is whatever is neither stem nor unit.
        before = {id(p) for p in encoder.stem()}
        before |= {id(p) for unit in units for p in unit.parameters()}
        for parameter in encoder.parameters():
            if id(parameter) not in before:
                parameter.requires_grad_(True)
