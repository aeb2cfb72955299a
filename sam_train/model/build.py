"""The settings of a model, and the model that they mean."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sam_train.errors import UserError
from sam_train.model import encoders
from sam_train.model.architecture import ACTIVATIONS, ARCHITECTURES, Architecture
from sam_train.model.encoders.base import RECOMPUTE
from sam_train.model.mask_decoder import MaskDecoder
from sam_train.model.ops.backends import BACKENDS, use_backend
from sam_train.model.prompt_encoder import PromptEncoder
from sam_train.model.sam import Sam
from sam_train.runtime.registry import import_all

import_all(encoders.__name__, encoders.__path__)


@dataclass(kw_only=True)
class ModelConfig:
    """Which model to build. Sizes left out are those of the name."""

    name: str = "vit_b"
    """vit_h, vit_l, vit_b (paper A); vit_s, vit_t, conv_t (ours)."""
    image_size: int | None = None
    """S, side of the square input in pixels, a multiple of the patch size (conv_t: of 16). Left
    out: 1024 (paper A), for vit_t and conv_t 256."""
    drop_path: float = 0.0
    """Stochastic depth of the encoder's last block, linear from 0 at the first (paper A: 0.4 for H
    and L, 0.6 for B)."""
    checkpoint_blocks: str = "none"
    """Share of each encoder block that the backward pass recomputes, to save memory: none;
    selective (everything but linear layers and fused attention: about half the memory of the
    encoder at little cost); full (all of it: a third more computation)."""
    attention: str = "auto"
    """Backend of softmax attention: auto (the fastest for the device); sdpa (torch's fused
    kernels); math (plain products that hold all scores in memory: a reference with the same
    operations on every device, and the way out where fused kernels fail)."""
    decoder_depth: int | None = None
    """Two-way blocks of the decoder: 2, or 3 as in the data engine's models (paper A)."""
    patch_size: int | None = None
    """ViT: side of a patch in pixels (16)."""
    window_size: int | None = None
    """ViT: side of an attention window in tokens (14); 0 looks at the whole grid."""
    embed_dim: int | None = None
    """Width of the encoder; conv_t: of its last stage."""
    depth: int | None = None
    """Blocks of the encoder; with a ViT give `global_blocks` too."""
    heads: int | None = None
    """ViT: attention heads."""
    global_blocks: list[int] = field(default_factory=list)
    """ViT: blocks with global attention; empty: those of the name."""
    prompt_dim: int | None = None
    """C, width of image embedding, prompts and decoder (256)."""
    decoder_heads: int | None = None
    """Attention heads of the decoder (8)."""
    decoder_mlp_dim: int | None = None
    """Width inside the decoder's MLP (2048)."""
    decoder_activation: str | None = None
    """gelu or relu, between upscaling layers."""


_NOT_SIZES = ("name", "drop_path", "checkpoint_blocks", "attention")


def resolve(cfg: ModelConfig) -> Architecture:
    """Find the sizes that `cfg` means, and check them.

    Raises:
        UserError: unknown name, a size that this model does not have, or sizes that do not fit
            together.
    """
    base = ARCHITECTURES[cfg.name]
    own = {f.name for f in fields(base)}
    sizes: dict[str, Any] = {}
    for name in (f.name for f in fields(cfg) if f.name not in _NOT_SIZES):
        given = getattr(cfg, name)
        if given is None or given == []:
            continue
        if name not in own:
            raise UserError(f"model.{name}={given}: {cfg.name} has no such size; leave it out")
        sizes[name] = tuple(given) if isinstance(given, list) else given
    arch = replace(base, **sizes)
    arch.check()
    if not 0 <= cfg.drop_path < 1:
        raise UserError(f"model.drop_path={cfg.drop_path} must be from 0 to below 1")
    recompute_of(cfg)
    BACKENDS[cfg.attention]
    return arch


def recompute_of(cfg: ModelConfig) -> str:
    """Read `checkpoint_blocks`; false and true, as older checkpoints have it, mean none and full.

    Raises:
        UserError: unknown value.
    """
    text = str(cfg.checkpoint_blocks).lower()
    value = {"false": "none", "true": "full"}.get(text, text)
    if value not in RECOMPUTE:
        raise UserError(
            f"model.checkpoint_blocks={cfg.checkpoint_blocks}: use one of {', '.join(RECOMPUTE)}"
        )
    return value


def build_from_config(cfg: ModelConfig) -> Sam:
    """Build a model with fresh weights (of torch's global generator), in training mode.

    Raises:
        UserError: as `resolve`.
    """
    arch = resolve(cfg)
    activation = ACTIVATIONS[arch.decoder_activation]
    sam = Sam(
        image_encoder=arch.encoder(drop_path=cfg.drop_path),
        prompt_encoder=PromptEncoder(
            embed_dim=arch.prompt_dim,
            grid=arch.grid,
            image_size=arch.image_size,
            activation=activation,
        ),
        mask_decoder=MaskDecoder(
            arch.prompt_dim,
            depth=arch.decoder_depth,
            heads=arch.decoder_heads,
            mlp_dim=arch.decoder_mlp_dim,
            iou_hidden=arch.prompt_dim,
            activation=activation,
        ),
    )
    # The order of construction above decides the initial weights of a seed.
    for unit in sam.image_encoder.units():
        unit.recompute = recompute_of(cfg)
    use_backend(sam, cfg.attention)
    return sam


def build_sam(
    name: str = "vit_b",
    *,
    checkpoint: str | Path | None = None,
    init_from: str | Path | None = None,
    image_size: int | None = None,
    **overrides: Any,
) -> Sam:
    """Build a SAM by name: vit_h, vit_l, vit_b (the paper's), vit_s, vit_t or conv_t (ours).

    Args:
        name: which one.
        checkpoint: a whole model of any kind that `ckpt=` takes: an official `.pth`, a Hugging
            Face folder or safetensors, one of our checkpoints. None leaves the weights random.
        init_from: a second file for what `checkpoint` lacks.
        image_size: S; None for the name's own (1024; vit_t and conv_t 256).
        overrides: other fields of `ModelConfig`.

    Raises:
        UserError: unknown name or sizes that do not fit together, `init_from` alone, or files that
            leave weights at random; `checkpoints.init.initialise` is meant for those.
    """
    unknown = sorted(set(overrides) - {f.name for f in fields(ModelConfig)})
    if unknown:
        raise UserError(f"build_sam: {', '.join(unknown)} is not a field of ModelConfig")
    sam = build_from_config(ModelConfig(name=name, image_size=image_size, **overrides))
    if checkpoint is not None:
        from sam_train.model.checkpoints.init import InitConfig, load_whole  # noqa: PLC0415 (it imports this file)

        beneath = None if init_from is None else str(init_from)
        load_whole(sam, str(checkpoint), InitConfig(), beneath=beneath)
    elif init_from is not None:
        raise UserError("build_sam: init_from is what checkpoint lacks; name a checkpoint, too")
    return sam
