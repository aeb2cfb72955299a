"""Attention between prompt tokens and the image: nearly all of the decoder's time and memory.

Legend: M masks, T tokens of one mask, N cells of the image embedding, C channels, H heads,
I = C / 2 channels inside cross-attention, d = I / H.

Done as drawn in the paper, every attention projects M x N cells. Two facts spare most of that:

- **Few tokens** (7 to 15 in the paper's rounds): a score q . W(cell + pe) is (W^T q) . (cell + pe),
  so the weights can be folded into the tokens, and the weighted mean of projected cells is the
  projection of their weighted mean. Nothing is projected per cell (`Image`).
- **Few ways for images to differ**: before the first block a mask's cells are its image's plus a
  dense prompt. That comes from F = 16 channels by one linear layer. So projections are computed per
  image, and per mask only from F channels (`FactoredImage`).

Both are exact; `tests/parity` holds them against the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sam_train.model.ops.backends import AttentionLayer
from sam_train.model.ops.layers import keep_in_graph


class Attention(AttentionLayer):
    """Multi-head attention whose inner width I may be smaller than its outer width C."""

    def __init__(self, dim: int, *, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def split(self, x: Tensor) -> Tensor:
        """Divide the channels among heads: [M, L, I] to [M, H, L, d]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def scaled(self, x: Tensor) -> Tensor:
        """Split and divide by the root of the head width: queries, or keys in their stead."""
        # Inner width over heads is d, so this is the usual d ** -0.5.
        return self.split(x * (self.heads / x.shape[-1]) ** 0.5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Attend: projected queries [M, Q, I], keys and values [M, K, I] to [M, Q, C].

        `bias` is added to the scores before the softmax: [M, 1, 1, K].
        """
        out = self.backend(self.scaled(q), self.split(k), self.split(v), bias=bias)
        return self.join(out)

    def join(self, x: Tensor) -> Tensor:
        """Project the heads' results together: [M, H, L, d] to [M, L, C]."""
        out: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))
        return out

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Project and attend: queries [M, Q, C], keys and values [M, K, C] to [M, Q, C]."""
        return self.attend(self.q_proj(q), self.k_proj(k), self.v_proj(v), bias=bias)


def write(
    attention: Attention, cells: Tensor, *, scores: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """Add to the cells the result of their attention to tokens: [M, N, C].

    Weights sum to one in each head, so an equal share of the output bias may ride on the folded
    values. The residual rides on the product. That is one pass over the cells instead of three.

    Args:
        attention: the layer.
        cells: [M, N, C].
        scores: [M, H, T, N]. Tokens stand before cells, since a softmax over a short last axis is
            slow on every device.
        values: [M, T, C], not projected yet.
        bias: [M, 1, 1, T], added to the scores.
    """
    if bias is not None:
        # The bias runs along tokens, which stand third here.
        scores = scores + bias.transpose(2, 3)
    # Over tokens: each cell shares its attention out among them.
    weights = scores.softmax(dim=2).flatten(1, 2).transpose(1, 2)
    heads = attention.heads
    # Value and output projections folded together, head by head.
    out_weight = attention.out_proj.weight.view(cells.shape[2], heads, -1).permute(1, 2, 0)
    v = attention.split(attention.v_proj(values)) @ out_weight + attention.out_proj.bias / heads
    return torch.baddbmm(cells, weights, v.flatten(1, 2))


@dataclass(slots=True)
class Image:
    """The image side of M masks after the first block."""

    cells: Tensor
    """[M, N, C]."""
    located: Tensor
    """[M, N, C]: cells plus their positional encoding."""

    def read(self, attention: Attention, queries: Tensor) -> Tensor:
        """Let tokens attend to the image: queries [M, T, C] to [M, T, C]."""
        heads = attention.heads
        q = attention.scaled(attention.q_proj(queries))
        M, _, T, d = q.shape
        # One query of width C for each head and token; heads become further queries.
        folded = (q @ attention.k_proj.weight.view(heads, d, -1)).flatten(1, 2)
        # Keys carry positions and values do not, as in the reference.
        means = attention.backend(folded[:, None], self.located[:, None], self.cells[:, None])
        value_weight = attention.v_proj.weight.view(heads, d, -1).transpose(1, 2)
        # The weights of a mean sum to one, so the value bias passes through unchanged.
        v = means.view(M, heads, T, -1) @ value_weight + attention.v_proj.bias.view(heads, 1, d)
        # A key bias shifts all scores of a query alike, which the softmax does not see.
        return keep_in_graph(attention.join(v), [attention.k_proj.bias])

    def written(
        self, attention: Attention, *, keys: Tensor, values: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Let the image attend to tokens, keys and values [M, T, C], by `write`."""
        heads = attention.heads
        k = attention.scaled(attention.k_proj(keys))
        query_weight = attention.q_proj.weight.view(heads, k.shape[3], -1)
        folded = (k @ query_weight).flatten(1, 2)
        scores = (folded @ self.located.transpose(1, 2)).view(*k.shape[:3], -1)
        # A query bias must stay: this softmax is over tokens, and each token's share of it differs.
        scores = scores + k @ attention.q_proj.bias.view(heads, -1, 1)
        return write(attention, self.cells, scores=scores, values=values, bias=bias)


@dataclass(slots=True)
class FactoredImage:
    """The image side of M masks before the first block: `base[index] + features @ weight.T`."""

    base: Tensor
    """[B, N, C], one for each image."""
    index: Tensor
    """int64 [M], the image of each mask."""
    features: Tensor | None
    """[M, N, F] of the dense prompts, or None if all masks have the same."""
    weight: Tensor
    """[C, F]."""
    pe: Tensor
    """[N, C], positional encoding of the cells."""

    def expand(self, per_image: Tensor, weight: Tensor) -> Tensor:
        """Add to [B, N, O] the features' share, weight [O, F]: [M, N, O]."""
        M = self.index.shape[0]
        # A single image is broadcast: no copy for each mask.
        one = per_image.shape[0] == 1
        gathered = per_image.expand(M, -1, -1) if one else per_image[self.index]
        if self.features is None:
            return gathered
        # One pass over [M, N, O] instead of a product and a sum.
        return torch.baddbmm(gathered, self.features, weight.T.expand(M, -1, -1))

    def _project(self, layer: nn.Linear, *, located: bool) -> Tensor:
        """Project the cells with or without their positional encoding: [M, N, I]."""
        base = self.base + self.pe if located else self.base
        # The mask prompt's last convolution is folded into the projection: [I, F], not [M, N, C].
        return self.expand(layer(base), layer.weight @ self.weight)

    def read(self, attention: Attention, queries: Tensor) -> Tensor:
        """Let tokens attend to the image: queries [M, T, C] to [M, T, C]."""
        k = self._project(attention.k_proj, located=True)
        v = self._project(attention.v_proj, located=False)
        return attention.attend(attention.q_proj(queries), k, v)

    def written(
        self, attention: Attention, *, keys: Tensor, values: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Let the image attend to tokens, keys and values [M, T, C], by `write`."""
        q = attention.split(self._project(attention.q_proj, located=True))
        scores = attention.scaled(attention.k_proj(keys)) @ q.transpose(2, 3)
        cells = self.expand(self.base, self.weight)
        return write(attention, cells, scores=scores, values=values, bias=bias)
