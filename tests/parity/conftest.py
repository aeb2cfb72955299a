"""segment-anything 1.0 as the reference: importable without torchvision, at any size, randomised.

Its fresh weights hide mistakes (relative-position tables are zeros, norms are ones),
so every parameter and buffer is randomised before a comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import segment_anything_reference
import torch
from torch import Tensor, nn

from sam_train.model import Sam

RELATIVE = 1e-5
"""Largest difference allowed, relative to the largest value."""


@pytest.fixture(scope="session")
def segment_anything() -> Any:
    """The package segment-anything 1.0."""
    return segment_anything_reference.load()


@pytest.fixture(scope="session")
def reference_like(segment_anything: Any) -> Callable[..., nn.Module]:
    """Builds segment-anything's own classes in the sizes of one of our models."""
    modeling = segment_anything.modeling

    def build(ours: Sam) -> nn.Module:
        encoder, dim = ours.image_encoder, ours.mask_decoder.iou_token.embedding_dim
        grid, size = ours.prompt_encoder.grid, ours.image_size
        decoder = ours.mask_decoder.transformer
        act = type(ours.mask_decoder.output_upscaling[2])
        model: nn.Module = modeling.Sam(
            modeling.ImageEncoderViT(
                img_size=size,
                patch_size=size // grid,
                embed_dim=encoder.pos_embed.shape[-1],
                depth=len(encoder.blocks),
                num_heads=encoder.blocks[0].attn.heads,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=max(b.attn.window for b in encoder.blocks),
                global_attn_indexes=tuple(
                    i for i, b in enumerate(encoder.blocks) if not b.attn.window
                ),
                out_chans=dim,
            ),
            modeling.PromptEncoder(
                embed_dim=dim,
                image_embedding_size=(grid, grid),
                input_image_size=(size, size),
                mask_in_chans=16,
                activation=act,
            ),
            modeling.MaskDecoder(
                transformer_dim=dim,
                transformer=modeling.TwoWayTransformer(
                    depth=len(decoder.layers),
                    embedding_dim=dim,
                    mlp_dim=decoder.layers[0].mlp.lin1.out_features,
                    num_heads=decoder.final_attn_token_to_image.heads,
                ),
                iou_head_hidden_dim=dim,
                activation=act,
            ),
        )
        return model.eval()

    return build


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module, int], None]:
    """Gives every tensor of a model random values that keep activations near one."""

    def fill(model: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        norms = {n for n, m in model.named_modules() if "Norm" in type(m).__name__}
        tables = {n for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
        for name, tensor in model.state_dict(keep_vars=True).items():
            noise = torch.randn(tensor.shape, generator=generator)
            module, _, kind = name.rpartition(".")
            if module in norms:
                noise = 0.2 * noise + (kind == "weight")
            elif kind in {"pos_embed", "rel_pos_h", "rel_pos_w", "bias"}:
                noise = 0.3 * noise
            elif kind == "weight" and module not in tables:
                noise = noise / tensor[0].numel() ** 0.5
            tensor.data.copy_(noise)

    return fill


@pytest.fixture(scope="session")
def assert_close() -> Callable[[Tensor, Tensor], None]:
    """Fails where the largest difference exceeds 1e-5 of the largest value."""

    def check(ours: Tensor, theirs: Tensor) -> None:
        assert ours.shape == theirs.shape
        difference = (ours - theirs).abs().max().item()
        largest = theirs.abs().max().item()
        assert largest > 0.0
        assert difference <= RELATIVE * largest, f"{difference / largest:.2e} of the largest value"

    return check
