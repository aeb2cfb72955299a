"""The prompt encoder: points, boxes and mask logits to embeddings (paper §3, A)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.model.ops.layers import Activation, LayerNorm2d, keep_in_graph
from sam_train.types import ABSENT, PAD, Prompts


@dataclass(slots=True, kw_only=True)
class PromptEmbeddings:
    """The output of the prompt encoder, as the mask decoder reads it.

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
        """Encode (x, y) in [0, 1]: [..., 2] to [..., 2 * features], float32 or finer.

        Written without a matrix product: autocast would round the angles to bfloat16.
        """
        # The matrix is a buffer of the state dict: random Fourier features (Tancik et al. 2020),
        # never trained.
        matrix = self.positional_encoding_gaussian_matrix
        precise = torch.promote_types(matrix.dtype, torch.float32)
        # From [0, 1] to [-1, 1], as in the reference.
        places = 2 * places.to(precise) - 1
        x, y = places[..., :1], places[..., 1:]
        by_x, by_y = matrix.to(precise)
        angles = 2 * math.pi * (x * by_x + y * by_y)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def grid(self, size: int) -> Tensor:
        """Encode the cell centres of a square grid, row by row: [size * size, C]."""
        device = self.positional_encoding_gaussian_matrix.device
        centres = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
        # Row by row, so the slow axis is y; the encoding wants (x, y).
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        encoded: Tensor = self(torch.stack([x, y], dim=-1).flatten(0, 1))
        return encoded


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
        # In the order of the labels 0 to 3: background, foreground, top left, bottom right.
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
        """Encode the places of the image embedding's cells: [h * w, C], float32 or finer."""
        return self.pe_layer.grid(self.grid)

    def forward(self, prompts: Prompts) -> PromptEmbeddings:
        """Embed M prompts of the input frame."""
        tokens = self._embed_tokens(prompts.coords, prompts.labels)
        last = self.mask_downscaling[6]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        features: Tensor | None = None
        bias: Tensor = last.bias
        # Both branches touch all weights, so each gets a gradient in every round.
        if prompts.mask_logits is None:
            bias = keep_in_graph(self.no_mask_embed.weight[0], self.mask_downscaling.parameters())
        else:
            features = self._embed_masks(prompts.mask_logits)
            bias = keep_in_graph(bias, self.no_mask_embed.parameters())
        return PromptEmbeddings(
            tokens=tokens,
            # PAD is a token to attend to; only ABSENT is none.
            present=prompts.labels != ABSENT,
            dense_features=features,
            dense_weight=last.weight.flatten(1),
            dense_bias=bias,
        )

    def _embed_tokens(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Embed (x, y) pixel indices [M, T, 2] with labels [M, T]: [M, T, C].

        One table serves every label, so each of its rows gets a gradient whatever was drawn.
        """
        # Rows by label, from PAD = -1 on; ABSENT borrows the first row and is hidden by the bias.
        table = torch.cat([self.not_a_point_embed.weight, *self.point_embeddings.parameters()])
        kind = F.embedding((labels - PAD).clamp(min=0), table)
        # The half pixel is added here and nowhere else: 0.0 is the centre of the first pixel.
        place = self.pe_layer((coords + 0.5) / self.image_size).to(kind.dtype)
        # PAD has no place: its token is the learned embedding alone.
        return torch.where((labels > PAD)[..., None], kind + place, kind)

    def _embed_masks(self, logits: Tensor) -> Tensor:
        """Reduce logits [M, 1, 4h, 4w] to features [M, h * w, F].

        The 2x2 stride-2 convolutions are matrix products over 2x2 blocks. With the pixel's place
        in its cell in front, [2x2 pixels of a block, 2x2 blocks of a cell, M x cells], nothing
        has to move between them. Channels come first: there are only 4, then 16 of them.
        """
        first, first_norm, first_act, second, second_norm, second_act, _ = self.mask_downscaling
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        assert isinstance(first_norm, LayerNorm2d)
        assert isinstance(second_norm, LayerNorm2d)
        g = self.grid
        # Split into cell, block and pixel along either axis; pixel and block go to the front.
        nested = logits.reshape(-1, g, 2, 2, g, 2, 2).permute(3, 6, 2, 5, 0, 1, 4)
        pixels = nested.reshape(4, -1).to(first.weight.dtype)
        x = convolve(first.weight.flatten(1), pixels, bias=first.bias)
        x = first_act(first_norm.channels_first(x)).view(second.weight[0].numel(), -1)
        x = convolve(second.weight.flatten(1), x, bias=second.bias)
        x = second_act(second_norm.channels_first(x))
        features: Tensor = x.view(-1, logits.shape[0], g * g).movedim(0, -1)
        return features


def convolve(weight: Tensor, x: Tensor, *, bias: Tensor | None) -> Tensor:
    """Multiply weight [O, I] by pixels [I, P] and add the bias [O]: [O, P]."""
    assert bias is not None
    return torch.addmm(bias[:, None], weight, x)
