"""A small convolutional image encoder, ours: ConvNeXt's blocks (Liu et al. 2022, arXiv 2201.03545).

For devices where attention is slow, and the proof that nothing outside this folder knows a ViT.
There are no pretrained weights for it: it is trained from scratch. It has no position table; the
decoder adds positions to the embedding anyway.

Legend: h, w cells of the stage that a block belongs to; D its width. Maps are channels-last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sam_train.errors import UserError
from sam_train.model.architecture import ARCHITECTURES, Architecture
from sam_train.model.encoders.base import ChainedEncoder, Unit, drop_path_rates
from sam_train.model.ops.layers import DropPath, LayerNorm2d, MLPBlock, StreamNorm

STAGES = 3
"""Stages, at strides 4, 8 and 16; each is twice as wide as the one before."""
STRIDE = 16


def _convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution to a channels-last map: [B, h, w, D] to [B, h', w', D']."""
    out: Tensor = layer(x.movedim(-1, 1))
    return out.movedim(1, -1)


def _stream(x: Tensor) -> Tensor:
    """Return the residual stream in float32 at least; autocast's convolutions give bfloat16."""
    wide: Tensor = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide


class Halve(nn.Module):
    """A map of half the side and of another width."""

    def __init__(self, dim: int, *, out: int) -> None:
        super().__init__()
        self.norm = StreamNorm(dim)
        self.proj = nn.Conv2d(dim, out, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, h, w, D] to [B, h / 2, w / 2, D']."""
        return _stream(_convolve(self.proj, self.norm(x)))


class ConvBlock(Unit):
    """A depthwise convolution and an MLP as one residual branch.

    The first block of a stage halves the map before, so that every parameter behind the stem lies
    in a unit.
    """

    def __init__(self, dim: int, *, before: int, drop_path: float) -> None:
        super().__init__()
        self.halve = Halve(before, out=dim) if before != dim else None
        # 7 x 7 as in ConvNeXt; mixing of channels is left to the MLP.
        self.depthwise = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = StreamNorm(dim)
        self.mlp = MLPBlock(dim, hidden=4 * dim)
        self.drop_path = DropPath(drop_path)

    def run(self, x: Tensor, draws: Tensor | None) -> Tensor:
        """Map [B, h, w, D] to [B, h', w', D']; `draws` [B, 1] are for the branch."""
        if self.halve is not None:
            x = self.halve(x)
        branch = self.mlp(self.norm(_convolve(self.depthwise, x)))
        # One draw a block: the whole branch stays or goes.
        out: Tensor = x + self.drop_path(branch, None if draws is None else draws[:, 0])
        return out


class ConvEncoder(ChainedEncoder):
    """Three stages of `ConvBlock` and SAM's neck.

    Args:
        image_size: S, a multiple of 16.
        dim: D of the last stage.
        depth: blocks; a quarter in each of the first two stages, the rest in the last.
        channels: C of the embedding.
        drop_path: stochastic depth of the last block.
    """

    def __init__(
        self, *, image_size: int, dim: int, depth: int, channels: int, drop_path: float
    ) -> None:
        super().__init__()
        self.image_size, self.stride, self.channels = image_size, STRIDE, channels
        first = dim // 4
        self.patch_embed = nn.Conv2d(3, first, kernel_size=4, stride=4)
        # Most blocks at the coarsest stride: there they are cheapest and see furthest.
        early = max(1, depth // 4)
        widths = [first] * early + [2 * first] * early + [dim] * (depth - 2 * early)
        # Not `blocks`: no ViT's tensor shall pass for one of these.
        self.layers = nn.ModuleList(
            ConvBlock(width, before=before, drop_path=rate)
            # Not strict: the widths before have the stem's in front, so they are one more.
            for width, before, rate in zip(
                widths, [first, *widths], drop_path_rates(drop_path, depth), strict=False
            )
        )
        self.neck = nn.ModuleList(
            [
                nn.Conv2d(dim, channels, kernel_size=1, bias=False),
                LayerNorm2d(channels),
                nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
                LayerNorm2d(channels),
            ]
        )
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights as ConvNeXt does, from a truncated normal of .02; biases are zero."""
        for module in [self.patch_embed, *self.layers.modules()]:
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def before_units(self, images: Tensor) -> Tensor:
        """Apply the first convolution: [B, 3, S, S] to [B, S / 4, S / 4, D / 4]."""
        return _stream(self.patch_embed(images).movedim(1, -1))

    def after_units(self, x: Tensor) -> Tensor:
        """Apply the neck: [B, h, w, D] to [B, C, h, w]."""
        narrow, narrow_norm, smooth, smooth_norm = self.neck
        x = narrow_norm(_convolve(narrow, x))
        embedding: Tensor = smooth_norm(_convolve(smooth, x))
        return embedding.movedim(-1, 1)

    def units(self) -> Sequence[ConvBlock]:
        """List the blocks of all stages."""
        return cast("Sequence[ConvBlock]", self.layers)

    def stem(self) -> Iterable[nn.Parameter]:
        """List the first convolution's parameters."""
        return self.patch_embed.parameters()

    def numerics(self) -> str:
        """Name the kind: every size shows in the shapes of the state dict."""
        return "conv"


@dataclass(frozen=True, kw_only=True)
class Conv(Architecture):
    """Sizes of a model with a convolutional encoder."""

    @property
    def stride(self) -> int:
        """16, of the last stage."""
        return STRIDE

    def encoder(self, *, drop_path: float) -> ConvEncoder:
        """Build the three stages."""
        return ConvEncoder(
            image_size=self.image_size,
            dim=self.embed_dim,
            depth=self.depth,
            channels=self.prompt_dim,
            drop_path=drop_path,
        )

    def check(self) -> None:
        """Refuse a width that cannot be halved twice, too, and less than a block for a stage."""
        super().check()
        if self.embed_dim % 4:
            raise UserError(f"model.embed_dim={self.embed_dim} must be a multiple of 4")
        if self.depth < STAGES:
            raise UserError(f"model.depth={self.depth} must be at least {STAGES}, one for a stage")


# With vit_t's prompt encoder and decoder; a training step of both takes similar memory.
ARCHITECTURES.add(
    "conv_t",
    Conv(
        embed_dim=128,
        depth=8,
        image_size=256,
        prompt_dim=128,
        decoder_heads=4,
        decoder_mlp_dim=512,
        decoder_activation="relu",
    ),
)
