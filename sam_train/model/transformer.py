"""The two-way transformer of the mask decoder (paper §3, A).

Legend: M masks, T tokens of one mask, N = h * w cells of the image embedding, C channels,
I = C / 2 channels inside cross-attention. "Image side" is what is computed for all N cells of all
M masks: nearly all of the decoder's time and memory, so this file is about touching it rarely.

Every attention adds a positional encoding to the cells first. It is the same for all masks and
projections are linear, W(cells + pe) = W cells + W pe, so the second term is computed once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.model.common import MLPBlock


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its outer one."""

    def __init__(self, dim: int, *, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Projected queries [M, Q, I], keys and values [M, K, I] to [M, Q, C].

        `bias` is added to the scores before the softmax: [M, 1, 1, K].
        """
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Queries [M, Q, C], keys and values [M, K, C] to [M, Q, C]."""
        return self.attend(self.q_proj(q), self.k_proj(k), self.v_proj(v), bias=bias)


def project_image(
    cells: Tensor, pe: Tensor, *, with_pe: list[nn.Linear], without_pe: list[nn.Linear]
) -> list[Tensor]:
    """Several projections of the same cells, as one matrix product.

    Args:
        cells: [M, N, C].
        pe: [N, C], added before the layers of `with_pe` only.

    Returns:
        [M, N, I] for each layer, those of `with_pe` first.
    """
    layers = [*with_pe, *without_pe]
    weight = torch.cat([layer.weight for layer in layers])
    shared = torch.cat(
        [F.linear(pe, layer.weight, layer.bias) for layer in with_pe]
        + [layer.bias.expand(pe.shape[0], -1).to(pe.dtype) for layer in without_pe],
        dim=-1,
    )
    projected = F.linear(cells, weight) + shared
    return list(projected.split([layer.out_features for layer in layers], dim=-1))


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves, to the image, pass an MLP; then the image attends to them."""

    def __init__(self, dim: int, *, heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads=heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads=heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, hidden=mlp_dim, activation=nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads=heads, downsample=2)

    def forward(
        self, tokens: Tensor, cells: Tensor, *, prompt: Tensor, pe: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One block.

        Args:
            tokens: [M, T, C].
            cells: [M, N, C].
            prompt: [M, T, C], the tokens as they entered the transformer: their own "positional
                encoding", added again before every attention.
            pe: [N, C] of the cells.
            bias: [M, 1, 1, T] of 0 and -inf, which hides absent tokens, or None.

        Returns:
            tokens and cells, shaped as they came.
        """
        to_image, to_tokens = self.cross_attn_token_to_image, self.cross_attn_image_to_token
        image_k, image_q, image_v = project_image(
            cells, pe, with_pe=[to_image.k_proj, to_tokens.q_proj], without_pe=[to_image.v_proj]
        )
        if self.first:  # the tokens are the prompt itself here: nothing to add it to
            tokens = self.self_attn(tokens, tokens, tokens, bias=bias)
        else:
            q = tokens + prompt
            tokens = tokens + self.self_attn(q, q, tokens, bias=bias)
        tokens = self.norm1(tokens)
        q = to_image.q_proj(tokens + prompt)
        tokens = self.norm2(tokens + to_image.attend(q, image_k, image_v))
        tokens = self.norm3(tokens + self.mlp(tokens))
        k, v = to_tokens.k_proj(tokens + prompt), to_tokens.v_proj(tokens)
        cells = self.norm4(cells + to_tokens.attend(image_q, k, v, bias=bias))
        return tokens, cells


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and one last attention of the tokens to the image."""

    def __init__(self, dim: int, *, depth: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(dim, heads=heads, mlp_dim=mlp_dim, first=i == 0)
            for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, heads=heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self, tokens: Tensor, cells: Tensor, *, pe: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [M, T, C] and cells [M, N, C] with encoding [N, C]; returns both, updated."""
        prompt = tokens
        for block in self.layers:
            tokens, cells = block(tokens, cells, prompt=prompt, pe=pe, bias=bias)
        last = self.final_attn_token_to_image
        k, v = project_image(cells, pe, with_pe=[last.k_proj], without_pe=[last.v_proj])
        attended = last.attend(last.q_proj(tokens + prompt), k, v)
        return self.norm_final_attn(tokens + attended), cells


__all__ = ["Attention", "TwoWayAttentionBlock", "TwoWayTransformer", "project_image"]
