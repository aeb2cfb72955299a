"""The model's sizes, by name, and how to build them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sam_train.errors import UserError
from sam_train.model.encoders.vit import RECOMPUTE, ImageEncoderViT
from sam_train.model.mask_decoder import MaskDecoder
from sam_train.model.ops.layers import Activation
from sam_train.model.prompt_encoder import PromptEncoder
from sam_train.model.sam import Sam

ACTIVATIONS: dict[str, Activation] = {"gelu": nn.GELU, "relu": partial(nn.ReLU, inplace=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Every size of a model. The defaults are what the paper's three models share (paper A)."""

    embed_dim: int
    """Width of the ViT."""
    depth: int
    """Blocks of the ViT."""
    heads: int
    """Attention heads of the ViT."""
    global_blocks: tuple[int, ...]
    """ViT blocks that attend globally; the others attend in windows."""
    image_size: int = 1024
    """S, side of the input in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels."""
    window_size: int = 14
    """Side of an attention window in tokens."""
    prompt_dim: int = 256
    """C, channels of the image embedding and width of prompts and decoder."""
    decoder_depth: int = 2
    """Two-way blocks; the paper's data-engine models had 3."""
    decoder_heads: int = 8
    """Attention heads of the decoder (the reference's)."""
    decoder_mlp_dim: int = 2048
    """Width inside the decoder's MLP."""
    decoder_activation: str = "gelu"
    """Between the decoder's upscaling layers and those of the mask prompt: gelu or relu."""


ARCHITECTURES: dict[str, Architecture] = {
    "vit_h": Architecture(embed_dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    "vit_l": Architecture(embed_dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_b": Architecture(embed_dim=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    # Ours: DINOv2's and DeiT's "small", with the paper's decoder.
    "vit_s": Architecture(embed_dim=384, depth=12, heads=6, global_blocks=(2, 5, 8, 11)),
    # Ours, for tests and the quick start. At 16 x 16 tokens windows would save nothing; ReLU is
    # cheaper than GELU where the decoder touches every pixel.
    "vit_t": Architecture(
        embed_dim=128,
        depth=6,
        heads=4,
        global_blocks=(0, 1, 2, 3, 4, 5),
        image_size=256,
        prompt_dim=128,
        decoder_heads=4,
        decoder_mlp_dim=512,
        decoder_activation="relu",
    ),
}


_SIZES = (
    *("image_size", "patch_size", "embed_dim", "depth", "heads"),
    *("prompt_dim", "decoder_depth", "decoder_heads", "decoder_mlp_dim"),
)


@dataclass(kw_only=True)
class ModelConfig:
    """Which model to build. Sizes left out are those of the name."""

    name: str = "vit_b"
    """vit_h, vit_l, vit_b (paper A), vit_s or vit_t (ours)."""
    image_size: int | None = None
    """S, side of the square input in pixels, a multiple of the patch size. Left out: 1024 (paper
    A), for vit_t 256."""
    drop_path: float = 0.0
    """Stochastic depth of the ViT's last block, linear from 0 at the first (paper A: 0.4 for H
    and L, 0.6 for B)."""
    checkpoint_blocks: str = "none"
    """What each ViT block recomputes in the backward pass, to save memory: none; selective
    (everything but linear layers and fused attention: about half the memory of the encoder at
    little cost); full (all of it: a third more computation)."""
    decoder_depth: int | None = None
    """Two-way blocks of the decoder: 2, or 3 as in the data engine's models (paper A)."""
    patch_size: int | None = None
    """Side of a patch in pixels (16)."""
    window_size: int | None = None
    """Side of an attention window in tokens (14)."""
    embed_dim: int | None = None
    """Width of the ViT."""
    depth: int | None = None
    """Blocks of the ViT; give `global_blocks` too."""
    heads: int | None = None
    """Attention heads of the ViT."""
    global_blocks: list[int] = field(default_factory=list)
    """ViT blocks with global attention; empty: those of the name."""
    prompt_dim: int | None = None
    """C, width of image embedding, prompts and decoder (256)."""
    decoder_heads: int | None = None
    """Attention heads of the decoder (8)."""
    decoder_mlp_dim: int | None = None
    """Width inside the decoder's MLP (2048)."""
    decoder_activation: str | None = None
    """gelu or relu, between upscaling layers."""


def resolve(cfg: ModelConfig) -> Architecture:
    """The sizes that `cfg` means, checked.

    Raises:
        UserError: unknown name, or sizes that do not fit together.
    """
    if cfg.name not in ARCHITECTURES:
        raise UserError(f"model.name={cfg.name} is not one of {', '.join(ARCHITECTURES)}")
    base = ARCHITECTURES[cfg.name]
    sizes: dict[str, Any] = {f.name: getattr(base, f.name) for f in fields(base)}
    for name in sizes:
        given = getattr(cfg, name)
        if given is not None and given != []:
            sizes[name] = tuple(given) if name == "global_blocks" else given
    arch = Architecture(**sizes)
    _check(arch)
    if not 0 <= cfg.drop_path < 1:
        raise UserError(f"model.drop_path={cfg.drop_path} must be from 0 to below 1")
    recompute_of(cfg)
    return arch


def recompute_of(cfg: ModelConfig) -> str:
    """`checkpoint_blocks`, checked; false and true, as older checkpoints have it, mean none and
    full.

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


def _check(arch: Architecture) -> None:
    for name in _SIZES:
        if getattr(arch, name) < 1:
            raise UserError(f"model.{name}={getattr(arch, name)} must be at least 1")
    if arch.window_size < 0:
        raise UserError(
            f"model.window_size={arch.window_size} must not be negative; 0 looks at all of it"
        )
    if arch.image_size % arch.patch_size or arch.image_size < arch.patch_size:
        lower = max(arch.image_size // arch.patch_size, 1) * arch.patch_size
        raise UserError(
            f"model.image_size={arch.image_size} is not a multiple of the patch size "
            f"{arch.patch_size}: try {lower} or {lower + arch.patch_size}"
        )
    if arch.embed_dim % arch.heads:
        raise UserError(f"model.heads={arch.heads} does not divide embed_dim={arch.embed_dim}")
    if arch.prompt_dim % (2 * arch.decoder_heads) or arch.prompt_dim % 8:
        raise UserError(
            f"model.prompt_dim={arch.prompt_dim} must be a multiple of 8 and of twice "
            f"decoder_heads={arch.decoder_heads}"
        )
    if any(not 0 <= i < arch.depth for i in arch.global_blocks):
        raise UserError(
            f"model.global_blocks={list(arch.global_blocks)} names blocks outside 0 to "
            f"{arch.depth - 1}: give global_blocks together with depth"
        )
    if arch.decoder_activation not in ACTIVATIONS:
        raise UserError(
            f"model.decoder_activation={arch.decoder_activation} is not one of "
            f"{', '.join(ACTIVATIONS)}"
        )


def build_from_config(cfg: ModelConfig) -> Sam:
    """A freshly initialised model (torch's global generator), in training mode.

    Raises:
        UserError: unknown name, or sizes that do not fit together.
    """
    arch = resolve(cfg)
    activation = ACTIVATIONS[arch.decoder_activation]
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=arch.image_size,
            patch_size=arch.patch_size,
            embed_dim=arch.embed_dim,
            depth=arch.depth,
            heads=arch.heads,
            global_attn_indexes=arch.global_blocks,
            window_size=arch.window_size,
            out_chans=arch.prompt_dim,
            drop_path=cfg.drop_path,
            recompute=recompute_of(cfg),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=arch.prompt_dim,
            grid=arch.image_size // arch.patch_size,
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


def build_sam(
    name: str = "vit_b",
    *,
    checkpoint: str | Path | None = None,
    init_from: str | Path | None = None,
    image_size: int | None = None,
    **overrides: Any,
) -> Sam:
    """A SAM by name: vit_h, vit_l, vit_b (the paper's), vit_s or vit_t (ours).

    Args:
        name: which one.
        checkpoint: a whole model of any kind that `ckpt=` takes: an official `.pth`, a Hugging
            Face folder or safetensors, one of our checkpoints. None leaves the weights random.
        init_from: a second file for what `checkpoint` lacks.
        image_size: S; None for the name's own (1024; vit_t 256).
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
        from sam_train.model.checkpoints.init import InitConfig, load_whole  # noqa: PLC0415 (init needs Sam)

        beneath = None if init_from is None else str(init_from)
        load_whole(sam, str(checkpoint), InitConfig(), beneath=beneath)
    elif init_from is not None:
        raise UserError("build_sam: init_from is what checkpoint lacks; name a checkpoint, too")
    return sam
