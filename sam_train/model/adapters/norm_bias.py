"""`optim.tune=norm_bias`: of the image encoder only norms and biases are trained.

After BitFit (Ben Zaken et al. 2022, arXiv 2106.10199), with the norms' weights beside the biases.
In vit_b that is 0.1 % of the encoder, so optimizer state and what ranks send shrink to almost
nothing; activations and the time of a step hardly change, since gradients pass through all blocks.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sam_train.model.adapters.base import TUNINGS, Extent, Tuning
from sam_train.model.encoders.base import ImageEncoder

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)


@TUNINGS.register("norm_bias")
class NormBias(Tuning):
    """Train norms and biases."""

    def apply(self, encoder: ImageEncoder, extent: Extent) -> None:
        """Open them; matrices, kernels and position tables stay frozen."""
        for module in encoder.modules():
            norm = isinstance(module, _NORMS)
            # By module, not by shape: a position table may have one dimension, too.
            for name, parameter in module.named_parameters(recurse=False):
                if norm or name == "bias":
                    parameter.requires_grad_(True)
