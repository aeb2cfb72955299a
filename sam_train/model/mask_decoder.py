"""The mask decoder: image embeddings and prompts to mask logits and predicted IoU (paper §3, A)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.model.ops.decoder_attention import FactoredImage
from sam_train.model.ops.layers import MLP, Activation, LayerNorm2d, keep_in_graph
from sam_train.model.prompt_encoder import PromptEmbeddings
from sam_train.model.transformer import TwoWayTransformer
from sam_train.types import Prediction

MULTIMASKS = 3
"""Masks for one ambiguous prompt: whole, part, subpart (paper §3)."""


class MaskDecoder(nn.Module):
    """A two-way transformer, upscaling, and one small hypernetwork per mask token.

    Mask token 0 answers several prompts with one mask; tokens 1 to 3 answer a single prompt
    (the reference's order).

    Args:
        dim: C.
        depth, heads, mlp_dim: of the transformer.
        iou_hidden: width inside the IoU head.
        activation: of the upscaling.
    """

    def __init__(
        self,
        dim: int,
        *,
        depth: int = 2,
        heads: int = 8,
        mlp_dim: int = 2048,
        iou_hidden: int = 256,
        activation: Activation = nn.GELU,
    ) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(dim, depth=depth, heads=heads, mlp_dim=mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        # Three for one ambiguous prompt and one for several prompts (paper A), which is row 0.
        self.mask_tokens = nn.Embedding(MULTIMASKS + 1, dim)
        self.output_upscaling = nn.ModuleList(
            [
                nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
                LayerNorm2d(dim // 4),
                activation(),
                # No norm behind the second upscaling, as in the reference.
                nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
                activation(),
            ]
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(dim, hidden=dim, out=dim // 8, depth=3) for _ in range(MULTIMASKS + 1)
        )
        # Four IoUs from one token, whatever number of masks is asked for.
        self.iou_prediction_head = MLP(dim, hidden=iou_hidden, out=MULTIMASKS + 1, depth=3)

    def forward(
        self,
        embeddings: Tensor,
        *,
        image_index: Tensor,
        pe: Tensor,
        prompts: PromptEmbeddings,
        multimask: bool | None,
        all_present: bool = False,
    ) -> Prediction:
        """Answer M prompts on B images.

        Args:
            embeddings: [B, C, h, w].
            image_index: int64 [M], the image of each prompt.
            pe: [h * w, C], positional encoding of the cells.
            prompts: M of them.
            multimask: three masks (tokens 1 to 3), one (token 0), or None: all four.
            all_present: promises that no slot is ABSENT, which spares the masking.
        """
        # Output tokens stand before the prompts (paper A): IoU, then the four masks.
        out = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat(
            [out.expand(prompts.tokens.shape[0], -1, -1).to(prompts.tokens.dtype), prompts.tokens],
            dim=1,
        )
        bias = None if all_present else self._absent_bias(prompts.present, outputs=out.shape[0])
        image = FactoredImage(
            # Per image, not per mask: the dense bias is the same for all masks of a round.
            base=embeddings.flatten(2).transpose(1, 2) + prompts.dense_bias,
            index=image_index,
            features=prompts.dense_features,
            weight=prompts.dense_weight,
            pe=pe.to(embeddings.dtype),
        )
        tokens, cells = self.transformer(tokens, image, bias=bias)

        all_masks = range(MULTIMASKS + 1)
        asked = all_masks if multimask is None else all_masks[1:] if multimask else all_masks[:1]
        hypernetworks = torch.stack(
            # The IoU token is number 0, so mask token i stands at 1 + i.
            [self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in asked],
            dim=1,
        )
        logits = self._masks(cells, hypernetworks)
        # The head predicts all four; columns follow the mask tokens.
        iou: Tensor = self.iou_prediction_head(tokens[:, 0])[:, asked.start : asked.stop]
        # A round asks for one mask or for three; the other hypernetworks get a zero gradient.
        unasked = [m for i, m in enumerate(self.output_hypernetworks_mlps) if i not in asked]
        iou = keep_in_graph(iou, (p for m in unasked for p in m.parameters()))
        return Prediction(mask_logits=logits, iou=iou)

    def _absent_bias(self, present: Tensor, *, outputs: int) -> Tensor:
        """Build the bias that hides absent slots from every softmax: [M, 1, 1, outputs + T].

        The decoder's own tokens are always there, so no row is hidden entirely.
        """
        hidden = F.pad(~present, (outputs, 0), value=False)
        # -inf rather than a large number: its exponential is exactly 0 in every dtype.
        bias = torch.zeros(hidden.shape, device=hidden.device)
        return bias.masked_fill(hidden, -torch.inf)[:, None, None]

    def _masks(self, cells: Tensor, hypernetworks: Tensor) -> Tensor:
        """Upscale the cells four times and take each pixel's product with the hypernetworks.

        A 2x2 stride-2 transposed convolution is a linear layer that gives each cell four pixels.
        Pixels stay grouped by cell until only K channels are left to be moved.

        Args:
            cells: [M, N, C].
            hypernetworks: [M, K, C / 8].

        Returns:
            [M, K, 4h, 4w].
        """
        first, norm, first_act, second, second_act = self.output_upscaling
        assert isinstance(norm, LayerNorm2d)
        M, K, _ = hypernetworks.shape
        side = math.isqrt(cells.shape[1])
        # Two axes only: an activation in place on a view would copy its base in the backward pass.
        x = _upscale(cells.flatten(0, 1), first)
        x = first_act(norm(x.view(-1, norm.normalized_shape[0])))
        x = second_act(_upscale(x, second)).view(M, side * side * 16, -1)
        logits: Tensor = x @ hypernetworks.transpose(1, 2)
        # Cell row, cell column, then (row, column) of both upscalings; K is innermost.
        nested = logits.view(M, side, side, 2, 2, 2, 2, K)
        return nested.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(M, K, 4 * side, 4 * side)


def _upscale(x: Tensor, conv: nn.Module) -> Tensor:
    """Apply `conv` to cells: [P, C] to [P, 4 * C'], the four pixels of each, row-major."""
    assert isinstance(conv, nn.ConvTranspose2d)
    assert conv.bias is not None
    # [in, out, 2, 2] to [2 * 2 * out, in]: pixel-major, so a view separates the pixels.
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)
    # The four pixels of a cell share one bias.
    return F.linear(x, weight, conv.bias.repeat(4))
