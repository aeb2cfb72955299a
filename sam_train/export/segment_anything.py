"""A `.pth` for segment-anything 1.0, and what its reader has to construct."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sam_train.export.files import stored, vit_sizes, whole, write_json
from sam_train.model.architecture import ARCHITECTURES, Architecture
from sam_train.model.checkpoints.weight_files import BESIDE, EXPORTED
from sam_train.model.config import ModelConfig
from sam_train.model.encoders.vit import ViT
from sam_train.model.mask_decoder import MULTIMASKS
from sam_train.model.sam import Sam

_ACTIVATIONS = {"gelu": "GELU", "relu": "ReLU"}
_MASK_CHANNELS = 16

READER = """\
import json, torch
from functools import partial
from segment_anything.modeling import (
    ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
)
sizes = json.load(open("{json}"))
activation = getattr(torch.nn, sizes["activation"])
norm = partial(torch.nn.LayerNorm, eps=1e-6)
sam = Sam(
    ImageEncoderViT(norm_layer=norm, **sizes["image_encoder"]),
    PromptEncoder(activation=activation, **sizes["prompt_encoder"]),
    MaskDecoder(
        transformer=TwoWayTransformer(**sizes["transformer"]),
        activation=activation,
        **sizes["mask_decoder"],
    ),
).eval()
sam.load_state_dict(torch.load("{pth}", weights_only=True))
"""
"""The command to type where the registry has no such model."""


def save_segment_anything(
    sam: Sam, path: Path, *, model: ModelConfig, dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Write the weights as segment-anything's `load_state_dict` takes them, and beside them a
    `.json` with the arguments that construct its classes at this model's sizes.

    Args:
        sam: on any device.
        path: a `.pth` file.
        model: what `sam` was built from.
        dtype: of the stored weights; the reader's own are float32 either way.

    Returns:
        Both files.

    Raises:
        UserError: another encoder than a ViT, a folder that cannot be written, or a weight beyond
            float16.
    """
    arch = vit_sizes(model, format="segment_anything")
    tensors = stored(sam.state_dict(), dtype, path=path)
    with whole(path) as unfinished:
        torch.save(tensors, unfinished)
    beside = path.with_suffix(BESIDE)
    name = registry_name(arch)
    known = f"from segment_anything import sam_model_registry\nsam = sam_model_registry[{name!r}]"
    code = f"{known}(checkpoint={path.name!r})\n" if name else READER
    content = {
        "registry": name,
        "code": code.replace("{json}", beside.name).replace("{pth}", path.name).splitlines(),
        **constructor_arguments(arch),
        EXPORTED: {"model": asdict(model)},
    }
    write_json(beside, content)
    return [path, beside]


def registry_name(arch: Architecture) -> str | None:
    """Find the name under which segment-anything's registry builds exactly this model."""
    names = ("vit_h", "vit_l", "vit_b")
    return next((name for name in names if ARCHITECTURES[name] == arch), None)


def constructor_arguments(arch: ViT) -> dict[str, Any]:
    """Build the keyword arguments of segment-anything's classes, by class.

    `activation` is a class of torch.nn for both the prompt encoder and the mask decoder.
    """
    grid = arch.image_size // arch.patch_size
    return {
        "activation": _ACTIVATIONS[arch.decoder_activation],
        "image_encoder": {
            "img_size": arch.image_size,
            "patch_size": arch.patch_size,
            "embed_dim": arch.embed_dim,
            "depth": arch.depth,
            "num_heads": arch.heads,
            "mlp_ratio": 4,
            "qkv_bias": True,
            "use_rel_pos": True,
            "window_size": arch.window_size,
            "global_attn_indexes": list(arch.global_blocks),
            "out_chans": arch.prompt_dim,
        },
        "prompt_encoder": {
            "embed_dim": arch.prompt_dim,
            "image_embedding_size": [grid, grid],
            "input_image_size": [arch.image_size, arch.image_size],
            "mask_in_chans": _MASK_CHANNELS,
        },
        "transformer": {
            "depth": arch.decoder_depth,
            "embedding_dim": arch.prompt_dim,
            "mlp_dim": arch.decoder_mlp_dim,
            "num_heads": arch.decoder_heads,
        },
        "mask_decoder": {
            "num_multimask_outputs": MULTIMASKS,
            "transformer_dim": arch.prompt_dim,
            "iou_head_depth": 3,
            "iou_head_hidden_dim": arch.prompt_dim,
        },
    }
