"""The sizes of a model, and the registry of those that have a name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import partial

from torch import nn

from sam_train.errors import UserError
from sam_train.model.encoders.base import ImageEncoder
from sam_train.model.ops.layers import Activation
from sam_train.runtime.registry import Registry

# In place: no backward pass needs ReLU's input, and the upscaled maps are the decoder's largest.
ACTIVATIONS: dict[str, Activation] = {"gelu": nn.GELU, "relu": partial(nn.ReLU, inplace=True)}


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """The sizes of a model; a subclass adds those of its encoder and builds it.

    The defaults are what the paper's three models share (paper A). A field that `ModelConfig` has,
    too, can be set on the command line.
    """

    embed_dim: int
    """Width of the encoder where it leaves for the neck."""
    depth: int
    """Units of the encoder."""
    image_size: int = 1024
    """S, side of the input in pixels."""
    prompt_dim: int = 256
    """C, channels of the image embedding and width of prompts and decoder."""
    decoder_depth: int = 2
    """Two-way blocks; the paper's data-engine models had 3."""
    decoder_heads: int = 8
    """Attention heads of the decoder (the reference's)."""
    decoder_mlp_dim: int = 2048
    """Width inside the decoder's MLP."""
    decoder_activation: str = "gelu"
    """Activation in the decoder's upscaling and in the mask prompt's branch: gelu or relu."""

    @property
    @abstractmethod
    def stride(self) -> int:
        """Pixels for each cell of the embedding, along one axis."""

    @abstractmethod
    def encoder(self, *, drop_path: float) -> ImageEncoder:
        """Build the image encoder with fresh weights; `drop_path` is that of its last unit."""

    @property
    def grid(self) -> int:
        """Side of the embedding."""
        return self.image_size // self.stride

    def check(self) -> None:
        """Refuse sizes that do not fit together.

        Raises:
            UserError: names the setting and what it may be.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            # A window of 0 is the exception: it means no windows.
            least = field.metadata.get("least", 1)
            if isinstance(value, int) and value < least:
                raise UserError(f"model.{field.name}={value} must be at least {least}")
        if self.image_size % self.stride:
            # An input smaller than one patch must not be told to try 0.
            lower = max(self.grid, 1) * self.stride
            raise UserError(
                f"model.image_size={self.image_size} is not a multiple of {self.stride}, the side "
                f"of a patch or the stride: try {lower} or {lower + self.stride}"
            )
        # Cross-attention halves the width (downsample 2); the decoder ends at C / 8 channels.
        if self.prompt_dim % (2 * self.decoder_heads) or self.prompt_dim % 8:
            raise UserError(
                f"model.prompt_dim={self.prompt_dim} must be a multiple of 8 and of twice "
                f"decoder_heads={self.decoder_heads}"
            )
        if self.decoder_activation not in ACTIVATIONS:
            raise UserError(
                f"model.decoder_activation={self.decoder_activation} is not one of "
                f"{', '.join(ACTIVATIONS)}"
            )


ARCHITECTURES: Registry[Architecture] = Registry("model.name")
