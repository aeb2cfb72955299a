"""The settings of a model, and the model that they mean."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from sam_train.errors import UserError
from sam_train.model import encoders
from sam_train.model.architecture import ACTIVATIONS, ARCHITECTURES, Architecture
from sam_train.model.config import ModelConfig
from sam_train.model.encoders.base import RECOMPUTE
from sam_train.model.mask_decoder import MaskDecoder
from sam_train.model.ops.backends import BACKENDS, use_backend
from sam_train.model.prompt_encoder import PromptEncoder
from sam_train.model.sam import Sam
from sam_train.runtime.registry import import_all
from sam_train.settings.sections import check_section

import_all(encoders.__name__, encoders.__path__)


_NOT_SIZES = ("name", "drop_path", "checkpoint_blocks", "attention", "window", "bands")


def resolve(cfg: ModelConfig) -> Architecture:
    """Find the sizes that `cfg` means, and check them.

    Raises:
        UserError: unknown name, a size that this model does not have, or sizes that do not fit
            together.
    """
    check_section(cfg)
    base = ARCHITECTURES[cfg.name]
    own = {f.name for f in fields(base)}
    sizes: dict[str, Any] = {}
    for name in (f.name for f in fields(cfg) if f.name not in _NOT_SIZES):
        given = getattr(cfg, name)
        # A list setting cannot be None, so an empty one stands for "the name's own".
        if given is None or given == []:
            continue
        if name not in own:
            raise UserError(f"model.{name}={given}: {cfg.name} has no such size; leave it out")
        sizes[name] = tuple(given) if isinstance(given, list) else given
    if len(cfg.bands) > 3:
        if "in_channels" not in own:
            raise UserError(
                f"model.bands={list(cfg.bands)}: {cfg.name} takes three channels, only a ViT more"
            )
        sizes["in_channels"] = len(cfg.bands)
    arch = replace(base, **sizes)
    arch.check()
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
