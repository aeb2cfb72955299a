"""Settings of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam_train.data.photos.rule import PhotoRule, rule_of
from sam_train.settings.sections import run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig


@section("model", order=30, resume="applies")
@dataclass(kw_only=True)
class ModelConfig:
    """The model to build. Sizes left out are those of the name."""

    name: str = "vit_b"
    """vit_h, vit_l, vit_b (paper A); vit_s, vit_t, conv_t (ours)."""
    image_size: int | None = setting(None, minimum=1)
    """S, side of the square input in pixels, a multiple of the patch size (conv_t: of 16). Left
    out: 1024 (paper A), for vit_t and conv_t 256."""
    drop_path: float = setting(0.0, minimum=0, below=1)
    """Stochastic depth of the encoder's last block, linear from 0 at the first (paper A: 0.4 for H
    and L, 0.6 for B)."""
    checkpoint_blocks: str = setting("none", resume="harmless")
    """Share of each encoder block that the backward pass recomputes, to save memory: none;
    selective (everything but linear layers and fused attention: about half the memory of the
    encoder at little cost); full (all of it: a third more computation)."""
    attention: str = setting("auto", resume="harmless")
    """Backend of softmax attention: auto (the fastest for the device); sdpa (torch's fused
    kernels); math (plain products that hold all scores in memory: a reference with the same
    operations on every device, and the way out where fused kernels fail)."""
    decoder_depth: int | None = setting(None, minimum=1)
    """Two-way blocks of the decoder: 2, or 3 as in the data engine's models (paper A)."""
    patch_size: int | None = setting(None, minimum=1)
    """ViT: side of a patch in pixels (16)."""
    window_size: int | None = setting(None, minimum=0)
    """ViT: side of an attention window in tokens (14); 0 looks at the whole grid."""
    embed_dim: int | None = setting(None, minimum=1)
    """Width of the encoder; conv_t: of its last stage."""
    depth: int | None = setting(None, minimum=1)
    """Blocks of the encoder; with a ViT give `global_blocks` too."""
    heads: int | None = setting(None, minimum=1)
    """ViT: attention heads."""
    global_blocks: list[int] = setting([])
    """ViT: blocks with global attention; empty: those of the name."""
    prompt_dim: int | None = setting(None, minimum=1)
    """C, width of image embedding, prompts and decoder (256)."""
    decoder_heads: int | None = setting(None, minimum=1)
    """Attention heads of the decoder (8)."""
    decoder_mlp_dim: int | None = setting(None, minimum=1)
    """Width inside the decoder's MLP (2048)."""
    decoder_activation: str | None = None
    """gelu or relu, between upscaling layers."""
    window: list[float] = setting([])
    """Values shown black and white in photos of more than 8 bits: [low, high], or such a pair for
    each band ([-160, 240] shows a CT's soft tissue). Empty: `fit` finds percentiles of the training
    set (`data.window`) and records them here, and every verb that loads the checkpoint uses them.
    Photos of 8 bits stay as they are."""
    bands: list[int] = setting([])
    """Bands of the photos that the model sees, from 1. Up to three become red, green and blue (two:
    magenta and green; one: grey). More widen a ViT's patch embedding to as many channels; from
    weights for RGB each begins as the mean of the three, scaled to give grey photos the same
    tokens. Empty: the first three."""


def photo_rule(cfg: ModelConfig) -> PhotoRule:
    """Return the way that photos beyond 8-bit RGB are shown to a model.

    Raises:
        UserError: `window` or `bands` mean nothing.
    """
    return rule_of(cfg.window, bands=cfg.bands)


@run_check
def _check_run(cfg: RunConfig) -> None:
    # The sizes stand beside what is built of them, and importing that takes a second.
    from sam_train.model.build import resolve  # noqa: PLC0415

    resolve(cfg.model)
    photo_rule(cfg.model)
