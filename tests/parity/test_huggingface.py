"""Our model against Hugging Face's `SamModel`: same weights through the key mapping, same outputs.

Every parameter is random, so a pair of tensors exchanged on the way would show.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import (
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise
from sam_train.model.checkpoints.state_dicts import from_huggingface, to_huggingface
from sam_train.model.load import build_sam
from sam_train.model.sam import Sam
from sam_train.types import BACKGROUND, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, FOREGROUND, PAD, Prompts

SIDE, GRID, BATCH = 80, 20, 2


def our_model() -> Sam:
    """5 x 5 tokens: windows of 3 need padding, so the mapping is tried on both kinds of block."""
    return build_sam(
        "vit_b", image_size=SIDE, embed_dim=32, depth=3, heads=2, global_blocks=[1], window_size=3
    ).eval()


def their_model() -> SamModel:
    vision = SamVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        global_attn_indexes=[1],
        window_size=3,
    )
    prompt = SamPromptEncoderConfig(image_size=SIDE)
    # Its default, 1e-6, is not segment-anything's.
    decoder = SamMaskDecoderConfig(layer_norm_eps=1e-5)
    config = SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompt.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )
    return SamModel(config).eval()


@pytest.fixture(scope="module")
def pair() -> tuple[Sam, SamModel]:
    """Both models with the same random weights, carried over by `to_huggingface`."""
    torch.manual_seed(0)
    ours, theirs = our_model(), their_model()
    with torch.no_grad():
        for tensor in ours.state_dict().values():
            tensor.normal_(std=0.2)
    theirs.load_state_dict(to_huggingface(ours.state_dict()), strict=True)
    return ours, theirs


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    largest = (ours - theirs).abs().max() / theirs.abs().max()
    assert largest <= 1e-5


@torch.no_grad()
def test_encoder_agrees(pair: tuple[Sam, SamModel]) -> None:
    images = torch.randn(BATCH, 3, SIDE, SIDE)
    assert_close(pair[0].image_encoder(images), pair[1].get_image_embeddings(images))


@torch.no_grad()
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", ["points", "boxes", "points and masks"])
def test_masks_and_iou_agree(pair: tuple[Sam, SamModel], kind: str, multimask: bool) -> None:
    torch.manual_seed(1)
    embeddings = torch.randn(BATCH, 256, 5, 5)
    points = torch.rand(BATCH, 1, 2, 2) * SIDE
    labels = torch.tensor([FOREGROUND, BACKGROUND]).expand(BATCH, 1, 2)
    logits = torch.randn(BATCH, 1, GRID, GRID) if kind == "points and masks" else None
    theirs_in: dict[str, Tensor | None]
    if kind == "boxes":
        coords = points[:, 0]
        token_labels = torch.tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]).expand(BATCH, 2)
        theirs_in = {"input_boxes": coords.reshape(BATCH, 1, 4)}
    else:
        coords = torch.cat([points[:, 0], torch.zeros(BATCH, 1, 2)], dim=1)
        token_labels = torch.cat([labels[:, 0], torch.full((BATCH, 1), PAD)], dim=1)
        theirs_in = {"input_points": points, "input_labels": labels, "input_masks": logits}
    prompts = Prompts(coords=coords, labels=token_labels, mask_logits=logits)
    ours = pair[0].decode(embeddings, torch.arange(BATCH), prompts, multimask=multimask)
    theirs = pair[1](image_embeddings=embeddings, multimask_output=multimask, **theirs_in)
    assert_close(ours.mask_logits, theirs.pred_masks[:, 0])
    assert_close(ours.iou, theirs.iou_scores[:, 0])


def test_names_round_trip_bit_for_bit(pair: tuple[Sam, SamModel]) -> None:
    theirs = pair[1].state_dict()
    back = from_huggingface(theirs)
    assert back.tensors.keys() == pair[0].state_dict().keys()
    assert all(torch.equal(back.tensors[k], v) for k, v in pair[0].state_dict().items())
    assert list(back.skipped) == ["shared_image_embedding.positional_embedding"]
    again = to_huggingface(back.tensors)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[k], v) for k, v in theirs.items())


@pytest.mark.parametrize("layout", ["folder", "shards", "bin", "file"])
def test_init_from_what_save_pretrained_writes(
    pair: tuple[Sam, SamModel], tmp_path: Path, layout: str
) -> None:
    ours, theirs = pair
    path = tmp_path
    if layout == "folder":
        theirs.save_pretrained(tmp_path)
    elif layout == "shards":
        theirs.save_pretrained(tmp_path, max_shard_size="4MB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
    elif layout == "bin":
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        path = tmp_path / "sam.safetensors"
        save_file({k: v.clone() for k, v in theirs.state_dict().items()}, path)
    fresh = our_model()
    report = initialise(fresh, str(path), InitConfig())
    assert report.kind == "Hugging Face SAM"
    assert not report.at_random
    assert not report.resized
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in fresh.state_dict().items())
