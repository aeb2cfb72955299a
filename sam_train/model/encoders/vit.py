"""The image encoder: a plain ViT with windowed and global attention, and a convolutional neck.

Paper §3 and A; the shape is ViTDet's (Li et al. 2022). Tokens stay channels-last, [B, h, w, D],
from the patches to the neck.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from sam_train.errors import UserError
from sam_train.model.architecture import ARCHITECTURES, Architecture
from sam_train.model.encoders.base import ChainedEncoder, Unit, drop_path_rates
from sam_train.model.ops.attention import GridAttention
from sam_train.model.ops.layers import DropPath, LayerNorm2d, MLPBlock, StreamNorm


class PatchEmbed(nn.Module):
    """Square patches to tokens."""

    def __init__(self, dim: int, *, patch_size: int, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Embed patches: [B, channels, S, S] to [B, h, w, D]."""
        tokens: Tensor = self.proj(images)
        return tokens.movedim(1, -1)


class Block(Unit):
    """A pre-norm transformer block over a grid of tokens."""

    def __init__(
        self, dim: int, *, heads: int, mlp_dim: int, grid: int, window: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = StreamNorm(dim)
        # Relative positions never reach beyond a window, so its tables end there.
        self.attn = GridAttention(dim, heads=heads, size=window or grid, window=window)
        self.norm2 = StreamNorm(dim)
        self.mlp = MLPBlock(dim, hidden=mlp_dim)
        self.drop_path = DropPath(drop_path)

    def run(self, x: Tensor, draws: Tensor | None) -> Tensor:
        """Map [B, h, w, D] to [B, h, w, D]; `draws` [B, 2] are for attention and MLP."""
        attention, mlp = (None, None) if draws is None else draws.unbind(1)
        # Two draws a block: attention and MLP are dropped independently, as in timm and ViTDet.
        x = x + self.drop_path(self.attn(self.norm1(x)), attention)
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)), mlp)
        return out


class ImageEncoderViT(ChainedEncoder):
    """A ViT and its neck.

    Args:
        img_size: S, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        embed_dim: D, width of the ViT.
        depth, heads, mlp_ratio: of the ViT.
        global_attn_indexes: blocks that attend to the whole grid; the others to windows.
        window_size: side of a window in tokens (14 in the paper).
        out_chans: C, channels of the embedding.
        drop_path: stochastic depth of the last block; grows linearly from 0 at the first.
        in_channels: of the photos: 3, or the number of `model.bands`.
    """

    branches = 2

    def __init__(
        self,
        *,
        img_size: int,
        patch_size: int,
        embed_dim: int,
        depth: int,
        heads: int,
        global_attn_indexes: Sequence[int],
        window_size: int = 14,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        drop_path: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        grid = img_size // patch_size
        self.image_size, self.stride, self.channels = img_size, patch_size, out_chans
        self.patch_embed = PatchEmbed(embed_dim, patch_size=patch_size, channels=in_channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                heads=heads,
                mlp_dim=int(embed_dim * mlp_ratio),
                grid=grid,
                # In the paper's models four blocks attend globally, evenly spaced (ViTDet).
                window=0 if i in global_attn_indexes else window_size,
                drop_path=rate,
            )
            for i, rate in enumerate(drop_path_rates(drop_path, depth))
        )
        self.neck = nn.ModuleList(
            [
                # No biases: the norms behind the convolutions have their own.
                nn.Conv2d(embed_dim, out_chans, kernel_size=1, bias=False),
                LayerNorm2d(out_chans),
                nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1, bias=False),
                LayerNorm2d(out_chans),
            ]
        )
        self._initialise()

    def _initialise(self) -> None:
        """Draw weights from a truncated normal of .02, the patches' by Xavier (MAE).

        Relative-position tables start at zero (as in the reference), so that position enters
        through the absolute table first, which therefore does not.
        """
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        # `flatten` is a view, so this fills the kernel itself.
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def before_units(self, images: Tensor) -> Tensor:
        """Embed patches and add absolute positions: [B, 3, S, S] to [B, h, w, D]."""
        # patch_embed gives bfloat16 under autocast; adding float32 positions keeps the stream
        # float32.
        tokens: Tensor = self.patch_embed(images) + self.pos_embed
        return tokens

    def after_units(self, x: Tensor) -> Tensor:
        """Apply the neck: [B, h, w, D] to [B, C, h, w]."""
        # Convolutions want channels first, norms last: movedim is a view, no copy (channels_last).
        narrow, narrow_norm, smooth, smooth_norm = self.neck
        x = narrow_norm(narrow(x.movedim(-1, 1)).movedim(1, -1))
        x = smooth_norm(smooth(x.movedim(-1, 1)).movedim(1, -1))
        return x.movedim(-1, 1)

    def units(self) -> Sequence[Block]:
        """List the blocks."""
        return cast("Sequence[Block]", self.blocks)

    def stem(self) -> Iterable[nn.Parameter]:
        """List the patch embedding and the absolute positions."""
        # Layer-wise decay gives them the lowest rate, below the first block.
        return [*self.patch_embed.parameters(), self.pos_embed]

    def position_tables(self) -> Iterable[nn.Parameter]:
        """List absolute and relative positions."""
        relative = [(block.attn.rel_pos_h, block.attn.rel_pos_w) for block in self.units()]
        return [self.pos_embed, *(table for pair in relative for table in pair)]

    def numerics(self) -> str:
        """Name heads and window of each block; the text is part of recorded fingerprints."""
        return str([(block.attn.heads, block.attn.window) for block in self.units()])

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """Tell windowed from global attention: they cost differently."""
        blocks = self.units()
        windows = [block.attn for block in blocks if block.attn.window]
        whole = [block.attn for block in blocks if not block.attn.window]
        return {
            "patches": [self.patch_embed],
            f"attention in windows, {len(windows)} blocks": windows,
            f"global attention, {len(whole)} blocks": whole,
            "MLPs": [block.mlp for block in blocks],
            "norms": [norm for block in blocks for norm in (block.norm1, block.norm2)],
            "neck": list(self.neck),
        }


@dataclass(frozen=True, kw_only=True)
class ViT(Architecture):
    """Sizes of a model with a ViT."""

    heads: int
    """Attention heads of the ViT."""
    global_blocks: tuple[int, ...]
    """Blocks that attend globally; the others attend in windows."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    window_size: int = field(default=14, metadata={"least": 0})
    """Side of an attention window in tokens; 0 looks at the whole grid."""
    in_channels: int = 3
    """Channels of the photos, from the number of `model.bands`."""

    @property
    def stride(self) -> int:
        """Side of a patch."""
        return self.patch_size

    def encoder(self, *, drop_path: float) -> ImageEncoderViT:
        """Build the ViT."""
        return ImageEncoderViT(
            img_size=self.image_size,
            patch_size=self.patch_size,
            embed_dim=self.embed_dim,
            depth=self.depth,
            heads=self.heads,
            global_attn_indexes=self.global_blocks,
            window_size=self.window_size,
            out_chans=self.prompt_dim,
            drop_path=drop_path,
            in_channels=self.in_channels,
        )

    def check(self) -> None:
        """Refuse heads that do not divide the width, too, and global blocks that do not exist."""
        super().check()
        if self.embed_dim % self.heads:
            raise UserError(f"model.heads={self.heads} does not divide embed_dim={self.embed_dim}")
        if any(not 0 <= i < self.depth for i in self.global_blocks):
            raise UserError(
                f"model.global_blocks={list(self.global_blocks)} names blocks outside 0 to "
                f"{self.depth - 1}: give global_blocks together with depth"
            )


# Paper A. The four global blocks end the four quarters of the depth.
ARCHITECTURES.add("vit_h", ViT(embed_dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)))
ARCHITECTURES.add("vit_l", ViT(embed_dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)))
ARCHITECTURES.add("vit_b", ViT(embed_dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)))
# Ours: DINOv2's and DeiT's "small", with the paper's decoder.
ARCHITECTURES.add("vit_s", ViT(embed_dim=384, depth=12, heads=6, global_blocks=(2, 5, 8, 11)))
# Ours, for tests and the quick start. At 16 x 16 tokens windows would save nothing; ReLU is
# cheaper than GELU where the decoder touches every pixel.
ARCHITECTURES.add(
    "vit_t",
    ViT(
        embed_dim=128,
        depth=6,
        heads=4,
        global_blocks=(0, 1, 2, 3, 4, 5),
        image_size=256,
        prompt_dim=128,
        decoder_heads=4,
        decoder_mlp_dim=512,
        decoder_activation="relu",
    ),
)
