"""`optim.tune=all`: every parameter is trained, as in the paper."""

from __future__ import annotations

from sam_train.model.adapters.base import TUNINGS, Extent, Tuning
from sam_train.model.encoders.base import ImageEncoder


@TUNINGS.register("all")
class Everything(Tuning):
    """Train the whole encoder."""

    alone = True

    def apply(self, encoder: ImageEncoder, extent: Extent) -> None:
        """Open every parameter."""
        encoder.requires_grad_(True)
