"""An MAE checkpoint in our encoder against torch's own pre-norm transformer layers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise
from sam_train.model.load import build_sam
from sam_train.model.sam import Sam

DIM, DEPTH, HEADS, GRID = 32, 3, 2, 5


def our_model(*, grid: int = GRID) -> Sam:
    return build_sam(
        "vit_b",
        image_size=16 * grid,
        embed_dim=DIM,
        depth=DEPTH,
        heads=HEADS,
        global_blocks=list(range(DEPTH)),
    ).eval()


def mae_checkpoint() -> dict[str, Tensor]:
    """What MAE's pre-training saves: timm's ViT names beside the decoder's."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, DIM),
        "pos_embed": (1, 1 + GRID * GRID, DIM),
        "mask_token": (1, 1, 16),
        "decoder_pos_embed": (1, 1 + GRID * GRID, 16),
        "patch_embed.proj.weight": (DIM, 3, 16, 16),
        "patch_embed.proj.bias": (DIM,),
        "norm.weight": (DIM,),
        "norm.bias": (DIM,),
        "decoder_embed.weight": (16, DIM),
        "decoder_blocks.0.attn.qkv.weight": (48, 16),
    }
    for i in range(DEPTH):
        linears = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
        for name, (rows, columns) in linears.items():
            shapes[f"blocks.{i}.{name}.weight"] = (rows * DIM, columns * DIM)
            shapes[f"blocks.{i}.{name}.bias"] = (rows * DIM,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{name}.weight"] = (DIM,)
            shapes[f"blocks.{i}.{name}.bias"] = (DIM,)
    return {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}


def torch_layer(state: dict[str, Tensor], index: int) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        DIM,
        HEADS,
        dim_feedforward=4 * DIM,
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    ).eval()
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        "linear1.weight": "mlp.fc1.weight",
        "linear1.bias": "mlp.fc1.bias",
        "linear2.weight": "mlp.fc2.weight",
        "linear2.bias": "mlp.fc2.bias",
        "norm1.weight": "norm1.weight",
        "norm1.bias": "norm1.bias",
        "norm2.weight": "norm2.weight",
        "norm2.bias": "norm2.bias",
    }
    layer.load_state_dict({k: state[f"blocks.{index}.{v}"] for k, v in names.items()})
    return layer


@torch.no_grad()
def test_encoder_blocks_equal_a_plain_vit(tmp_path: Path) -> None:
    state = mae_checkpoint()
    torch.save({"model": state, "epoch": 799}, tmp_path / "mae.pth")
    sam = our_model()
    initialise(sam, f"mae:{tmp_path / 'mae.pth'}", InitConfig())
    images = torch.randn(2, 3, 16 * GRID, 16 * GRID)

    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    expected = nn.functional.conv2d(images, kernel, bias, stride=16).flatten(2).transpose(1, 2)
    expected = expected + state["pos_embed"][:, 1:]
    for i in range(DEPTH):
        expected = torch_layer(state, i)(expected)

    encoder = sam.image_encoder
    tokens = encoder.patch_embed(images) + encoder.pos_embed
    for block in encoder.blocks:
        tokens = block(tokens)
    largest = (tokens.flatten(1, 2) - expected).abs().max() / expected.abs().max()
    assert largest <= 1e-5


def test_report_names_what_mae_has_and_sam_has_not(tmp_path: Path) -> None:
    state = mae_checkpoint()
    torch.save({"model": state}, tmp_path / "mae.pth")
    sam = our_model(grid=8)
    neck = sam.image_encoder.neck[0].weight.detach().clone()
    report = initialise(sam, f"mae:{tmp_path / 'mae.pth'}", InitConfig())
    skipped = {"cls_token", "mask_token", "norm.weight", "norm.bias", "decoder_embed.weight"}
    skipped |= {"decoder_pos_embed", "decoder_blocks.0.attn.qkv.weight"}
    assert {entry.name for entry in report.skipped} == skipped
    assert len(report.loaded) + len(report.resized) == len(state) - len(skipped)
    assert [(e.name, e.note) for e in report.resized] == [("image_encoder.pos_embed", "5x5 -> 8x8")]
    at_random = {entry.name for entry in report.at_random}
    assert {f"image_encoder.blocks.{i}.attn.rel_pos_h" for i in range(DEPTH)} <= at_random
    assert {n for n in sam.state_dict() if n.startswith("mask_decoder.")} <= at_random
    assert torch.equal(sam.image_encoder.neck[0].weight, neck)
    assert len(report.loaded) + len(report.resized) + len(at_random) == len(sam.state_dict())
