"""ReLU written as GELU: for readers whose mask decoder has GELU built in.

GELU(kx) / k is ReLU(x) to within 0.17 / k. The decoder's two upscaling activations are followed by
linear maps only, so the weights can hold k. It enters before them (the norm that feeds the first)
and leaves behind them (the hypernetworks' last layers). With k a power of two no bit of a weight is
lost, and the way back is exact. A ReLU decoder gives the same masks with and without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sam_train.model.checkpoints.state_dicts import StateDict

RELU_SCALE = "relu_scale"
"""Key of k in an exported config.json, beside the model's sizes."""
# The second convolution's weight takes what the first activation gives and hands it on: as it is.
_BEFORE = re.compile(r"^mask_decoder\.output_upscaling\.(1\.weight|1\.bias|3\.bias)$")
_BEHIND = re.compile(r"^mask_decoder\.output_hypernetworks_mlps\.\d+\.layers\.2\.(weight|bias)$")


def scale_relu(state: Mapping[str, Tensor], scale: float) -> StateDict:
    """Multiply the decoder's weights by k = `scale`; 1 / `scale` takes it out again."""

    def scaled(name: str, tensor: Tensor) -> Tensor:
        if _BEFORE.match(name):
            return tensor * scale
        # The last layers are linear, so what they give is divided exactly.
        return tensor / scale if _BEHIND.match(name) else tensor

    return {name: scaled(name, tensor) for name, tensor in state.items()}


def recorded_scale(config: Mapping[str, Any]) -> float:
    """Read k from our section of an exported config.json; 1 if it is no power of two."""
    value = config.get(RELU_SCALE, 1)
    # The file may be anyone's, and any other factor would cost bits.
    powers = {2.0**k for k in range(32)}
    return float(value) if isinstance(value, int | float) and value in powers else 1.0
