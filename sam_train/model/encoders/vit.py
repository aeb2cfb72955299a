"""The image encoder: a plain ViT with windowed and global attention, and a convolutional neck.

Paper §3 and A; the shape is ViTDet's (Li et al. 2022). Tokens stay channels-last, [B, h, w, D],
from the patches to the neck.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from sam_train.model.ops.attention import GridAttention
from sam_train.model.ops.layers import DropPath, LayerNorm2d, MLPBlock


class PatchEmbed(nn.Module):
    """Square patches to tokens."""

    def __init__(self, dim: int, *, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, h, w, D]."""
        tokens: Tensor = self.proj(images)
        return tokens.movedim(1, -1)


class StreamNorm(nn.LayerNorm):
    """LayerNorm of the residual stream, in the stream's dtype also where fsdp2 brings the weights
    as bfloat16."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[..., dim] to [..., dim]."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


RECOMPUTE = ("none", "selective", "full")

_PRODUCTS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def _keep_products(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = op in _PRODUCTS
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


class Block(nn.Module):
    """A pre-norm transformer block over a grid of tokens.

    Args:
        recompute: of what lies inside, in the backward pass, to save memory. none; selective:
            everything but the linear layers and fused attention, which cost nearly all the time
            (half the memory of none); full: everything (only the block's input is kept, and a
            third more is computed).
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        mlp_dim: int,
        grid: int,
        window: int,
        drop_path: float,
        recompute: str = "none",
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.norm1 = StreamNorm(dim)
        self.attn = GridAttention(dim, heads=heads, size=window or grid, window=window)
        self.norm2 = StreamNorm(dim)
        self.mlp = MLPBlock(dim, hidden=mlp_dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """[B, h, w, D] to [B, h, w, D]; `draws` [B, 2] for attention and MLP, see DropPath."""
        if self.recompute == "none" or not (self.training and torch.is_grad_enabled()):
            return self._run(x, draws)
        # Inside the block, so that compiling or splitting the block comprises it.
        chosen: dict[str, Any] = {}
        if self.recompute == "selective":
            chosen["context_fn"] = partial(create_selective_checkpoint_contexts, _keep_products)
        out: Tensor = checkpoint(self._run, x, draws, use_reentrant=False, **chosen)
        return out

    def _run(self, x: Tensor, draws: Tensor | None) -> Tensor:
        attention, mlp = (None, None) if draws is None else draws.unbind(1)
        x = x + self.drop_path(self.attn(self.norm1(x)), attention)
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)), mlp)
        return out


class ImageEncoderViT(nn.Module):
    """Images to embeddings.

    Args:
        img_size: S, a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        embed_dim: D, width of the ViT.
        depth, heads, mlp_ratio: of the ViT.
        global_attn_indexes: blocks that attend to the whole grid; the others to windows.
        window_size: side of a window in tokens (14 in the paper).
        out_chans: C, channels of the embedding.
        drop_path: stochastic depth of the last block; grows linearly from 0 at the first.
        recompute: of each block in the backward pass, see `Block`.
    """

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
        recompute: str = "none",
    ) -> None:
        super().__init__()
        grid = img_size // patch_size
        self.img_size = img_size
        self.patch_embed = PatchEmbed(embed_dim, patch_size=patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, embed_dim))
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                heads=heads,
                mlp_dim=int(embed_dim * mlp_ratio),
                grid=grid,
                window=0 if i in global_attn_indexes else window_size,
                drop_path=drop_path * i / max(depth - 1, 1),
                recompute=recompute,
            )
            for i in range(depth)
        )
        self.neck = nn.ModuleList(
            [
                nn.Conv2d(embed_dim, out_chans, kernel_size=1, bias=False),
                LayerNorm2d(out_chans),
                nn.Conv2d(out_chans, out_chans, kernel_size=3, padding=1, bias=False),
                LayerNorm2d(out_chans),
            ]
        )
        self._initialise()

    def _initialise(self) -> None:
        """ViT practice: truncated normal .02, the patches as a linear layer's Xavier (MAE).

        Relative-position tables start at zero (as in the reference), so that position enters
        through the absolute table first, which therefore does not.
        """
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Normalised, padded images float [B, 3, S, S] to embeddings [B, C, h, w].

        Args:
            images: as above.
            draws: float [B, depth, 2], uniform in [0, 1), for drop path; see `DropPath`.
        """
        x: Tensor = self.patch_embed(images) + self.pos_embed
        for i, block in enumerate(self.blocks):
            of_block = None if draws is None else draws[:, i]
            x = block(x, of_block)
        narrow, narrow_norm, smooth, smooth_norm = self.neck
        x = narrow_norm(narrow(x.movedim(-1, 1)).movedim(1, -1))
        x = smooth_norm(smooth(x.movedim(-1, 1)).movedim(1, -1))
        return x.movedim(-1, 1)
