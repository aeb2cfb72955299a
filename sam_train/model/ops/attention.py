"""Self-attention of the image encoder: in windows or over the whole image.

Legend: H, W tokens of one image (or of one window) in rows and columns; N = H * W; d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.model.ops.backends import AttentionLayer
from sam_train.model.ops.layers import Projection


@dataclass(frozen=True, slots=True)
class Windows:
    """A grid of `height` x `width` tokens that falls into square windows of side `side`.

    Windows that stick out at the right or bottom are padded (as in ViTDet); side 0 means no
    windows at all.
    """

    height: int
    width: int
    side: int

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns to add at the bottom and right."""
        return -self.height % self.side, -self.width % self.side

    def split(self, x: Tensor) -> Tensor:
        """Cut [B, height, width, C], already padded, into [B * windows, side, side, C]."""
        B, H, W, C = x.shape
        # Cells of a window become neighbours in memory: (row, column) of the window before those
        # inside.
        x = x.view(B, H // self.side, self.side, W // self.side, self.side, C)
        return x.transpose(2, 3).flatten(0, 2)

    def join(self, x: Tensor) -> Tensor:
        """Join [B * windows, side, side, C] to [B, height, width, C], without the padding."""
        rows, columns = (-(-size // self.side) for size in (self.height, self.width))
        x = x.view(-1, rows, columns, *x.shape[1:]).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)[:, : self.height, : self.width]


def one_hot_places(height: int, width: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Mark row and column of each token of a grid, one-hot: [N, height + width]."""
    # Token n stands in row n // width and column n % width.
    rows = torch.eye(height, device=device, dtype=dtype).repeat_interleave(width, dim=0)
    columns = torch.eye(width, device=device, dtype=dtype).repeat(height, 1)
    return torch.cat([rows, columns], dim=1)


def relative_positions(table: Tensor, *, size: int) -> Tensor:
    """Look up the embedding of every (query, key) distance along one axis.

    Args:
        table: [2 * size - 1, d]; row `size - 1` belongs to distance zero. A table made for
            another size is resampled linearly, so a model runs at sizes it was not built for.
        size: tokens along the axis.

    Returns:
        [size, size, d]: query, key, channel.
    """
    # Distances from -(size - 1) to size - 1 are the rows of the table.
    if table.shape[0] != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    steps = torch.arange(size, device=table.device)
    return table[steps[:, None] - steps[None, :] + size - 1]


class GridAttention(AttentionLayer):
    """Self-attention over a [B, H, W, C] grid of tokens (paper A; ViTDet, Li et al. 2022).

    Args:
        dim: C.
        heads: number of heads; divides C.
        size: side of the relative-position tables: the window's, or the whole grid's.
        window: side of the windows, or 0 for attention over the whole grid.
    """

    def __init__(self, dim: int, *, heads: int, size: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = Projection(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * size - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * size - 1, dim // heads))

    def forward(self, x: Tensor) -> Tensor:
        """Attend in windows or everywhere: [B, H, W, C] to [B, H, W, C]."""
        if not self.window:
            out: Tensor = self.proj(self._attend(self.qkv(x)))
            return out
        windows = Windows(x.shape[1], x.shape[2], self.window)
        # Padded tokens are attended to like others: the reference masks none, and its weights
        # expect it.
        down, right = windows.padding
        # A padded token is a zero vector, so its q, k and v are the bias: project first and pad
        # the result, which spares the padding two GEMMs.
        if down or right:
            qkv = F.pad(self.qkv.product(x), (0, 0, 0, right, 0, down))
            qkv = qkv + self.qkv.bias.to(qkv.dtype)
        else:
            qkv = self.qkv(x)
        attended: Tensor = self.proj(windows.join(self._attend(windows.split(qkv))))
        return attended

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attend inside each grid: [B, H, W, 3C] to [B, H, W, C].

        Relative position adds q . rel_h[row, key row] + q . rel_w[column, key column] to a score.
        Both terms are themselves products, of H + W more channels: queries carry what each key
        row and column adds, keys say (one-hot) where they stand. So any plain attention kernel
        computes them exactly, and no [N, N] bias is ever made (FlashBias, arXiv 2505.12044).
        """
        B, H, W, _ = qkv.shape
        # The order of channels in the official weights: q, k, v, then heads.
        q, k, v = qkv.view(B, H * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        grid = q.view(B, self.heads, H, W, -1)
        # Relative positions meet the unscaled query, as in ViTDet; only q . k is scaled.
        rows = relative_positions(self.rel_pos_h, size=H).to(q.dtype)
        columns = relative_positions(self.rel_pos_w, size=W).to(q.dtype)
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).flatten(2, 3)
        places = one_hot_places(H, W, device=q.device, dtype=q.dtype).expand(B, self.heads, -1, -1)
        out = self.backend(
            # Width d + H + W on both sides; the added products are those of the position terms.
            torch.cat([q * q.shape[-1] ** -0.5, by_row, by_column], dim=-1),
            torch.cat([k, places], dim=-1),
            v,
        )
        return out.transpose(1, 2).reshape(B, H, W, -1)
