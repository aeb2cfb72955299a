"""`optim.tune=decoder`: the image encoder stays as it is, its neck included.

A photo's embedding is then always the same, and the encoder needs no backward pass. HQ-SAM's
Table 4 (Ke et al. 2023, arXiv 2306.01567) has what a decoder trained alone forgets.
"""

from __future__ import annotations

from sam_train.model.adapters.base import TUNINGS, Extent, Tuning
from sam_train.model.encoders.base import ImageEncoder


@TUNINGS.register("decoder")
class Decoder(Tuning):
    """Train prompt encoder and decoder alone."""

    alone = True

    def apply(self, encoder: ImageEncoder, extent: Extent) -> None:
        """Leave the encoder frozen."""
