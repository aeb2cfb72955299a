"""SAM's relatives, told by the names of their tensors: what cannot be loaded is called by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from sam_train.errors import UserError
from sam_train.model.checkpoints.state_dicts import ENCODER, MODULES

_START = "start from a SAM file, such as sam_vit_b_01ec64.pth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """A model whose names or additions this one has no place for."""

    title: str
    names: re.Pattern[str]
    """Matches somewhere in the names that only it has."""
    whole: bool = False
    """No module of it can be used; else only the one that such a name is in cannot."""
    addition: bool = False
    """It is SAM with something beside: the rest loads, but means little without."""
    way_out: str = _START


def _named(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"(?:^|\.)(?:{'|'.join(patterns)})")


_SAM2_ONLY_21 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj", "occlusion_spatial_embedding")
# The more particular first: a file of SAM 2.1 holds all of SAM 2's names as well.
_RELATIVES = (
    Relative(
        title="SAM 3",
        names=_named(
            r"detector_model\.",
            r"tracker_model\.",
            r"tracker\.(?:sam_|maskmem|memory|transformer|backbone)",
            r"detector\.(?:backbone|transformer|geometry|segmentation|dot_prod)",
            *("(?:vision|language)_backbone", "presence_token", "detr_(?:en|de)coder"),
        ),
        whole=True,
    ),
    Relative(title="SAM-HQ 2 (on SAM 2)", names=_named(r"sam_mask_decoder\.hf_"), whole=True),
    Relative(title="SAM 2.1", names=_named(*_SAM2_ONLY_21), whole=True),
    Relative(
        title="SAM 2",
        names=_named(
            *(r"sam_mask_decoder\.", r"sam_prompt_encoder\.", r"memory_attention\."),
            *(r"memory_encoder\.", "maskmem_tpos_enc", r"image_encoder\.trunk\.", "obj_ptr_proj"),
            *(r"vision_encoder\.backbone\.", "no_memory_embedding", r"mask_decoder\.conv_s[01]"),
        ),
        whole=True,
    ),
    Relative(
        title="EfficientSAM",
        names=_named(
            *("final_output_upscaling_layers", "bbox_(?:top_left|bottom_right)_embeddings"),
            *("invalid_points", r"image_encoder\.blocks\.\d+\.mlp\.fc1"),
        ),
        whole=True,
    ),
    Relative(
        title="MobileSAM (or another SAM with a TinyViT encoder)",
        names=_named(r"patch_embed\.seq\.\d", r"layers\.\d+\.blocks\.\d+\.(?:local_conv|conv1\.c)"),
    ),
    Relative(title="EdgeSAM (RepViT encoder)", names=_named(r"image_encoder\.fuse_stage")),
    Relative(
        title="RepViT-SAM",
        names=_named(r"image_encoder\.(?:\w+\.)?features\.\d", r"features\.\d+\.token_mixer"),
    ),
    Relative(
        title="EfficientViT-SAM",
        names=_named(r"image_encoder\.backbone\.", r"image_encoder\.neck\.(?:input_ops|middle)"),
    ),
    Relative(title="SAM-Med3D", names=_named(r"image_encoder\..*rel_pos_d")),
    Relative(
        title="SAM-HQ",
        names=_named(
            *("hf_token", r"hf_mlp\.", "compress_vit_", r"embedding_encoder\."),
            *(r"embedding_maskfeature\.", "hq_token", "hq_mask_mlp", "hq_encoder_conv"),
        ),
        addition=True,
        way_out="its other weights are those of the SAM file that it was made from",
    ),
    Relative(
        title="LoRA",
        names=_named(
            *("lora_", r"w_[ab]_\d+", "w_[ab]_linear", "linear_[ab]_[qkv]", "hada_w", "lokr_w"),
            "(?:new_)?fc_[ab]_[qkv]",
        ),
        addition=True,
        way_out="merge them into the weights with the program that made them (in peft: "
        "merge_and_unload) and save the state dict",
    ),
    Relative(
        title="adapter (Medical-SAM-Adapter and the like)",
        names=re.compile(r"adapter|(?:^|\.)prompt_generator\.", re.IGNORECASE),
        addition=True,
    ),
    Relative(
        title="DINOv2 in Facebook's own names",
        names=_named(r"blocks\.\d+\.ls1\.gamma"),
        whole=True,
        way_out="take Hugging Face's file of the same weights, facebook/dinov2-*: dinov2:PATH",
    ),
)


def refuse_relative(names: Iterable[str], *, path: Path, wanted: Collection[str]) -> None:
    """Refuse a file of a model that this one is not, where it matters.

    Args:
        names: of the tensors, without what a trainer put before them.
        path: for the message.
        wanted: modules to initialise. Additions to another module do not matter.

    Raises:
        UserError: names the relative, its first tensor, and the way out.
    """
    listed = list(names)
    for relative in _RELATIVES:
        found = [name for name in listed if relative.names.search(name)]
        inside = {_module_of(name) for name in found}
        if not found or not (relative.whole or inside & set(wanted)):
            continue
        count = f"{len(found)} tensors, such as" if len(found) > 1 else "as"
        if relative.addition:
            what = f"{path}: holds {relative.title} weights ({count} {found[0]})"
            what += " that this model has no place for, and the rest is not the same without"
        else:
            what = f"{path}: is of {relative.title}, not of SAM ({count} {found[0]})"
        # Modules without a foreign name are SAM's and can be taken alone.
        there = {_module_of(name) for name in listed if not relative.names.search(name)}
        raise UserError(f"{what}; {_way_out(relative, there - inside)}")


def _way_out(relative: Relative, sound: set[str]) -> str:
    rest = [module for module in MODULES if module in sound]
    if relative.whole or not rest:
        return relative.way_out
    return (
        f"{relative.way_out}, or take the rest alone with init.modules=[{','.join(rest)}] (outside "
        "fit init_from=SAM.pth then gives the other modules)"
    )


def _module_of(name: str) -> str:
    """Return the module that a name belongs to; bare names (SAMed's) are the encoder's."""
    parts = name.replace("vision_encoder", ENCODER).split(".")
    found = next((part for part in parts if part in MODULES), ENCODER)
    # SAM-HQ's additions may come without their module's name.
    if found == ENCODER and re.search(r"(^|\.)(hf_|hq_|compress_vit)", name):
        return "mask_decoder"
    return found
