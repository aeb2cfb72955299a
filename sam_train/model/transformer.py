"""The two-way transformer of the mask decoder (paper §3, A).

Legend: M masks, T tokens of one mask, N cells of the image embedding, C channels. How tokens and
image attend to each other cheaply is in `decoder_attention`; this file is the order of things.
"""

from __future__ import annotations

from torch import Tensor, nn

from sam_train.model.ops.decoder_attention import Attention, FactoredImage, Image
from sam_train.model.ops.layers import MLPBlock


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves, to the image, pass an MLP; then the image attends to them."""

    def __init__(self, dim: int, *, heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, heads=heads)
        # The norms of this file have torch's epsilon of 1e-5, as the reference; the others have
        # 1e-6.
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads=heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        # ReLU here whatever `decoder_activation` says, which is about the upscaling.
        self.mlp = MLPBlock(dim, hidden=mlp_dim, activation=nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads=heads, downsample=2)

    def forward(
        self, tokens: Tensor, image: FactoredImage | Image, *, prompt: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Let tokens attend to themselves and to the image, then the image to them.

        Args:
            tokens: [M, T, C].
            image: the image side of M masks.
            prompt: [M, T, C], the tokens as they entered the transformer: their own "positional
                encoding", added again before every attention.
            bias: [M, 1, 1, T] of 0 and -inf, which hides absent tokens, or None.

        Returns:
            tokens [M, T, C] and cells [M, N, C].
        """
        if self.first:  # the tokens are still the prompt itself: nothing to add it or them to
            tokens = self.self_attn(tokens, tokens, tokens, bias=bias)
        else:
            located = tokens + prompt
            tokens = tokens + self.self_attn(located, located, tokens, bias=bias)
        # Post-norm, as in the reference.
        tokens = self.norm1(tokens)
        tokens = tokens + image.read(self.cross_attn_token_to_image, tokens + prompt)
        tokens = self.norm2(tokens)
        # Nothing is added to the MLP's input: positions are for attention only.
        tokens = self.norm3(tokens + self.mlp(tokens))
        # Last, so that the image attends to tokens that have read it and passed the MLP.
        cells = image.written(
            self.cross_attn_image_to_token, keys=tokens + prompt, values=tokens, bias=bias
        )
        return tokens, self.norm4(cells)


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
        self, tokens: Tensor, image: FactoredImage, *, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Update tokens [M, T, C] and the image side of M masks to tokens and cells [M, N, C]."""
        prompt = tokens
        # Factored by image only until the first block writes to every mask's cells.
        side: FactoredImage | Image = image
        for block in self.layers:
            tokens, cells = block(tokens, side, prompt=prompt, bias=bias)
            # The positional encoding is added anew before every attention (paper A).
            side = Image(cells=cells, located=cells + image.pe.to(cells.dtype))
        # Tokens look at the image once more; the image no longer changes.
        attended = side.read(self.final_attn_token_to_image, tokens + prompt)
        return self.norm_final_attn(tokens + attended), cells
