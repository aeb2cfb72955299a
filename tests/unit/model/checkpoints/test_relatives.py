"""Relatives of SAM are called by their name, with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_sam import changed, copy_of, part, randomised, tiny
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise, load_whole

# Names as the programs write them.
SAM2 = (
    *("image_encoder.trunk.blocks.0.attn.qkv.weight", "image_encoder.neck.convs.0.conv.weight"),
    *("sam_mask_decoder.iou_token.weight", "sam_prompt_encoder.not_a_point_embed.weight"),
    *("memory_attention.norm.weight", "memory_encoder.out_proj.weight", "maskmem_tpos_enc"),
)
TINY_VIT = (
    *("image_encoder.patch_embed.seq.0.c.weight", "image_encoder.layers.0.blocks.0.conv1.c.weight"),
    "image_encoder.layers.1.blocks.0.attn.attention_biases",
)
ELSEWHERE = {
    "SAM 2,": SAM2,
    "SAM 2.1": (*SAM2, "no_obj_embed_spatial", "obj_ptr_tpos_proj.weight"),
    "SAM 2, ": (
        *("vision_encoder.backbone.blocks.0.attn.qkv.weight", "no_memory_embedding"),
        *("mask_decoder.conv_s0.weight", "prompt_encoder.shared_embedding.positional_embedding"),
    ),
    "SAM-HQ 2": (*SAM2, "sam_mask_decoder.hf_token.weight"),
    "SAM 3": (
        "detector.backbone.vision_backbone.trunk.blocks.0.attn.qkv.weight",
        "tracker.sam_mask_decoder.iou_token.weight",
        "tracker.maskmem_tpos_enc",
    ),
    "SAM 3,": (
        "detector_model.vision_encoder.backbone.layers.0.attention.q_proj.weight",
        "tracker_model.mask_decoder.iou_token.weight",
    ),
    "EfficientSAM": (
        "image_encoder.blocks.0.mlp.fc1.weight",
        "prompt_encoder.bbox_top_left_embeddings.weight",
        "mask_decoder.final_output_upscaling_layers.0.0.weight",
    ),
    "DINOv2 in Facebook's own names": ("blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma"),
}
ANOTHER_ENCODER = {
    "MobileSAM": TINY_VIT,
    "EdgeSAM": ("image_encoder.features.0.0.c.weight", "image_encoder.fuse_stage2.weight"),
    "RepViT-SAM": (
        "image_encoder.features.0.0.c.weight",
        "image_encoder.features.3.token_mixer.0.conv.c.weight",
    ),
    "EfficientViT-SAM": (
        "image_encoder.backbone.stages.0.op_list.0.main.conv.weight",
        "image_encoder.neck.input_ops.0.op_list.0.conv.weight",
    ),
}
ADDED = {
    "SAM-HQ": ("mask_decoder.hf_token.weight", "mask_decoder.compress_vit_feat.0.weight"),
    "LoRA": ("image_encoder.blocks.0.attn.qkv.lora_A.default.weight",),
    "LoRA ": ("w_a_000", "w_b_000"),
    "LoRA  ": ("image_encoder.blocks.0.attn.qkv.linear_a_q.weight",),
    "LoRA   ": ("image_encoder.blocks.0.attn.qkv.w_a_linear_q.weight",),
    "adapter (Medical-SAM-Adapter": (
        "image_encoder.blocks.0.MLP_Adapter.D_fc1.weight",
        "image_encoder.blocks.0.Space_Adapter.D_fc1.weight",
    ),
    "adapter (Medical": ("mask_decoder.transformer.layers.0.MLP_Adapter.D_fc1.weight",),
    "adapter": ("image_encoder.prompt_generator.shared_mlp.weight",),
}


def file(folder: Path, *names: str, **state: Tensor) -> Path:
    torch.save({"model": {name: torch.ones(2, 2) for name in names} | state}, folder / "a.pth")
    return folder / "a.pth"


def refusals(path: Path) -> str:
    """The same line for whoever uses the model and for whoever trains it on."""
    lines = []
    for use in (load_whole, initialise):
        sam = tiny()
        before = copy_of(sam)
        with pytest.raises(UserError) as caught:
            use(sam, str(path), InitConfig())
        assert not changed(before, sam)
        lines.append(str(caught.value))
    assert lines[0] == lines[1]
    assert "\n" not in lines[0]
    assert str(path) in lines[0]
    return lines[0]


@pytest.mark.parametrize("title", ELSEWHERE)
def test_another_model_is_called_by_its_name(title: str, tmp_path: Path) -> None:
    message = refusals(file(tmp_path, *ELSEWHERE[title]))
    assert f"is of {title.strip()}" in message
    assert "sam_vit_b_01ec64.pth" in message or "facebook/dinov2" in message


@pytest.mark.parametrize("title", ANOTHER_ENCODER)
def test_with_another_encoder_the_rest_is_sams(title: str, tmp_path: Path) -> None:
    state = copy_of(randomised())
    rest = part(state, "prompt_encoder", "mask_decoder")
    path = file(tmp_path, *ANOTHER_ENCODER[title], **rest)
    message = refusals(path)
    assert f"is of {title}" in message
    assert "init.modules=[prompt_encoder,mask_decoder]" in message
    base = copy_of(randomised(seed=2))
    torch.save(base, tmp_path / "base.pth")
    sam, modules = tiny(), ["prompt_encoder", "mask_decoder"]
    load_whole(sam, str(path), InitConfig(modules=modules), beneath=str(tmp_path / "base.pth"))
    assert not changed(base | rest, sam)


@pytest.mark.parametrize("title", ADDED)
def test_additions_are_not_dropped_in_silence(title: str, tmp_path: Path) -> None:
    state = copy_of(randomised())
    path = file(tmp_path, *ADDED[title], **state)
    message = refusals(path)
    assert f"holds {title.strip()}" in message
    assert ADDED[title][0] in message
    inside = "image_encoder" if "mask_decoder" not in ADDED[title][0] else "mask_decoder"
    modules = [m for m in ("image_encoder", "prompt_encoder", "mask_decoder") if m != inside]
    assert f"init.modules=[{','.join(modules)}]" in message
    # What lies beside it is sound.
    report = initialise(tiny(), str(path), InitConfig(modules=modules))
    assert {e.name for e in report.loaded} == set(part(state, *modules))


def test_adapters_alone(tmp_path: Path) -> None:
    name = "base_model.model.vision_encoder.layers.0.attn.qkv.lora_A.weight"
    message = refusals(file(tmp_path, name))
    assert "LoRA" in message
    assert "merge_and_unload" in message
    assert "init.modules" not in message
    assert "LoRA" in refusals(file(tmp_path, "w_a_000", "w_b_000"))


def test_medsam_is_plain_sam(tmp_path: Path) -> None:
    state = copy_of(randomised())
    content = {"model": {f"module.{n}": t for n, t in state.items()}, "epoch": 3}
    torch.save(content | {"optimizer": {"state": {}}}, tmp_path / "medsam.pth")
    sam = tiny()
    load_whole(sam, str(tmp_path / "medsam.pth"), InitConfig())
    assert not changed(state, sam)
