"""A folder that transformers' `SamModel` and `SamProcessor` load with `from_pretrained`.

Written without transformers: three files, of which two are JSON.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sam_train.errors import UserError
from sam_train.export.files import stored, vit_sizes, whole, write_json
from sam_train.model.checkpoints.relu_scale import RELU_SCALE, scale_relu
from sam_train.model.checkpoints.state_dicts import to_huggingface
from sam_train.model.checkpoints.weight_files import EXPORTED
from sam_train.model.config import ModelConfig
from sam_train.model.encoders.vit import ViT
from sam_train.model.mask_decoder import MULTIMASKS
from sam_train.model.sam import PIXEL_MEAN, PIXEL_STD, Sam

# A power of two large enough to make GELU a ReLU to float32's precision; float16 ends at 65504.
RELU_SCALES = {torch.float32: 2.0**20, torch.float16: 2.0**8}


def save_huggingface(
    sam: Sam, folder: Path, *, model: ModelConfig, dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Write config.json, model.safetensors and preprocessor_config.json.

    `SamModel` has GELU in its mask decoder whatever its config says; a decoder with ReLU is
    written so that this GELU acts as one (`relu_scale.py`).

    Args:
        sam: on any device.
        folder: made if need be; other files in it stay.
        model: what `sam` was built from.
        dtype: of the stored weights, and of the model that `from_pretrained` gives.

    Returns:
        The files.

    Raises:
        UserError: another encoder than a ViT, a folder that cannot be written, or a weight beyond
            float16.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; format=huggingface writes a folder")
    arch = vit_sizes(model, format="huggingface")
    scale = RELU_SCALES[dtype] if arch.decoder_activation == "relu" else 1.0
    state = stored(sam.state_dict(), dtype, path=folder)
    # Stored again: Hugging Face keeps one matrix under two names, and scaling may overflow.
    tensors = stored(to_huggingface(scale_relu(state, scale)), dtype, path=folder)
    weights = folder / "model.safetensors"
    with whole(weights) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
    config, processor = folder / "config.json", folder / "preprocessor_config.json"
    ours = {"model": asdict(model), RELU_SCALE: scale}
    write_json(config, {**_config(arch, dtype=dtype), EXPORTED: ours})
    write_json(processor, _processor(arch))
    return [weights, config, processor]


def _config(arch: ViT, *, dtype: torch.dtype) -> dict[str, Any]:
    sizes = {"image_size": arch.image_size, "patch_size": arch.patch_size}
    return {
        "architectures": ["SamModel"],
        "model_type": "sam",
        "dtype": str(dtype).removeprefix("torch."),
        "vision_config": {
            **sizes,
            "model_type": "sam_vision_model",
            "hidden_size": arch.embed_dim,
            "output_channels": arch.prompt_dim,
            "num_hidden_layers": arch.depth,
            "num_attention_heads": arch.heads,
            "num_channels": 3,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "qkv_bias": True,
            "mlp_ratio": 4.0,
            "use_abs_pos": True,
            "use_rel_pos": True,
            "window_size": arch.window_size,
            "global_attn_indexes": list(arch.global_blocks),
            "num_pos_feats": arch.prompt_dim // 2,
        },
        "prompt_encoder_config": {
            **sizes,
            "model_type": "sam_prompt_encoder",
            "hidden_size": arch.prompt_dim,
            "mask_input_channels": 16,
            "num_point_embeddings": 4,
            "hidden_act": arch.decoder_activation,
            "layer_norm_eps": 1e-6,
        },
        "mask_decoder_config": {
            "model_type": "sam_mask_decoder",
            "hidden_size": arch.prompt_dim,
            "hidden_act": "relu",
            "mlp_dim": arch.decoder_mlp_dim,
            "num_hidden_layers": arch.decoder_depth,
            "num_attention_heads": arch.decoder_heads,
            "attention_downsample_rate": 2,
            "num_multimask_outputs": MULTIMASKS,
            "iou_head_depth": 3,
            "iou_head_hidden_dim": arch.prompt_dim,
            # Its default, 1e-6, is not the reference's.
            "layer_norm_eps": 1e-5,
        },
    }


def _processor(arch: ViT) -> dict[str, Any]:
    S, g = arch.image_size, 4 * (arch.image_size // arch.patch_size)
    return {
        "image_processor_type": "SamImageProcessor",
        "processor_class": "SamProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"longest_edge": S},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in PIXEL_MEAN],
        "image_std": [value / 255 for value in PIXEL_STD],
        "do_pad": True,
        "pad_size": {"height": S, "width": S},
        "mask_size": {"longest_edge": g},
        "mask_pad_size": {"height": g, "width": g},
    }
