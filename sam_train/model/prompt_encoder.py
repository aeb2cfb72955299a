"""The prompt encoder: points, boxes and mask logits to embeddings (paper §3, A)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.model.common import Activation, LayerNorm2d, keep_in_graph
from sam_train.types import ABSENT, PAD, Prompts


@dataclass(slots=True, kw_only=True)
class PromptEmbeddings:
    """What the prompt encoder hands to the mask decoder.

    The dense prompt is left factored. Its last layer is a 1x1 convolution from few (16) channels,
    so what the decoder projects from it can be computed from those few channels.
    """

    tokens: Tensor
    """[M, T, C]."""
    present: Tensor
    """bool [M, T]: False where the slot is ABSENT."""
    dense_features: Tensor | None
    """[M, h * w, F], or None where there is no mask prompt."""
    dense_weight: Tensor
    """[C, F]."""
    dense_bias: Tensor
    """[C]; without a mask prompt this is the learned "no mask" vector."""


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of a place in the image (Tancik et al. 2020)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, places: Tensor) -> Tensor:
        """(x, y) in [0, 1], [..., 2], to [..., 2 * features], float32 or finer.

        Written without a matrix product: autocast would round the angles to bfloat16.
        """
        matrix = self.positional_encoding_gaussian_matrix
        precise = torch.promote_types(matrix.dtype, torch.float32)
        places = 2 * places.to(precise) - 1
        x, y = places[..., :1], places[..., 1:]
        by_x, by_y = matrix.to(precise)
        angles = 2 * math.pi * (x * by_x + y * by_y)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, size: int) -> Tensor:
        """The encoding of the cell centres of a square grid: [size * size, C], row by row."""
        device = self.positional_encoding_gaussian_matrix.device
        centres = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self(torch.stack([x, y], dim=-1).flatten(0, 1))


class PromptEncoder(nn.Module):
    """Prompts to tokens and a dense prompt.

    Args:
        embed_dim: C.
        grid: side of the image embedding; mask prompts have side 4 * grid.
        image_size: S, the side of the input frame.
        mask_channels: F, channels inside the mask branch (16 in the paper).
        activation: of the mask branch.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        grid: int,
        image_size: int,
        mask_channels: int = 16,
        activation: Activation = nn.GELU,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.image_size = image_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.ModuleList(
            [
                nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
                LayerNorm2d(mask_channels // 4),
                activation(),
                nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
                LayerNorm2d(mask_channels),
                activation(),
                nn.Conv2d(mask_channels, embed_dim, kernel_size=1),
            ]
        )
        self.no_mask_embed = nn.Embedding(1, embed_dim)

    def dense_pe(self) -> Tensor:
        """Positional encoding of the image embedding's cells: [h * w, C], float32 or finer."""
        return self.pe_layer.grid(self.grid)

    def forward(self, prompts: Prompts) -> PromptEmbeddings:
        """M prompts, input frame, to their embeddings."""
        tokens = self._embed_tokens(prompts.coords, prompts.labels)
        last = self.mask_downscaling[6]
        weight, bias = last.weight.flatten(1), last.bias
        if prompts.mask_logits is None:
            features = None
            bias = keep_in_graph(self.no_mask_embed.weight[0], self.mask_downscaling.parameters())
        else:
            features = self._embed_masks(prompts.mask_logits)
            bias = keep_in_graph(bias, self.no_mask_embed.parameters())
        return PromptEmbeddings(
            tokens=tokens,
            present=prompts.labels != ABSENT,
            dense_features=features,
            dense_weight=weight,
            dense_bias=bias,
        )

    def _embed_tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        """(x, y) pixel indices [M, T, 2] and labels [M, T] to [M, T, C].

        One table serves every label, so each of its rows gets a gradient whatever was drawn.
        """
        table = torch.cat(
            [self.not_a_point_embed.weight, *(e.weight for e in self.point_embeddings)]
        )
        kind = F.embedding((labels - PAD).clamp(min=0), table)
        # The half pixel is added here and nowhere else: 0.0 is the centre of the first pixel.
        place = self.pe_layer((coords + 0.5) / self.image_size).to(kind.dtype)
        return torch.where((labels > PAD)[..., None], kind + place, kind)

    def _embed_masks(self, logits: Tensor) -> Tensor:
        """Logits [M, 1, 4h, 4w] to features [M, h * w, F].

        The 2x2 stride-2 convolutions are linear layers over 2x2 blocks. Brought into the order
        (cell, block, pixel of the block) once, nothing has to move after that.
        """
        first, first_norm, first_act, second, second_norm, second_act, _ = self.mask_downscaling
        g = self.grid
        blocks = logits.reshape(-1, g, 2, 2, g, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
        pixels = blocks.reshape(-1, g * g, 4, 4).to(first.weight.dtype)
        x = F.linear(pixels, first.weight.flatten(1), first.bias)
        x = first_act(first_norm(x)).flatten(2)
        x = F.linear(x, second.weight.permute(0, 2, 3, 1).flatten(1), second.bias)
        features: Tensor = second_act(second_norm(x))
        return features


__all__ = ["PositionEmbeddingRandom", "PromptEmbeddings", "PromptEncoder"]
