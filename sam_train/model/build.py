"""The model's sizes, by name, and how to build them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from sam_train.errors import UserError
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.config import ModelConfig
from sam_train.model.encoders.vit import RECOMPUTE, ImageEncoderViT
from sam_train.model.mask_decoder import MaskDecoder
from sam_train.model.ops.layers import Activation
from sam_train.model.prompt_encoder import PromptEncoder
from sam_train.model.sam import Sam
from sam_train.settings.sections import check_section

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


def resolve(cfg: ModelConfig) -> Architecture:
    """The sizes that `cfg` means, checked.

    Raises:
        UserError: unknown name, or sizes that do not fit together.
    """
    check_section(cfg)
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
        from sam_train.model.checkpoints.init import load_whole  # noqa: PLC0415 (init needs Sam)

        beneath = None if init_from is None else str(init_from)
        load_whole(sam, str(checkpoint), InitConfig(), beneath=beneath)
    elif init_from is not None:
        raise UserError("build_sam: init_from is what checkpoint lacks; name a checkpoint, too")
    return sam
