"""A DINOv2 checkpoint in our encoder against Hugging Face's `Dinov2Model`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from sam_train.model.checkpoints.config import InitConfig
from sam_train.model.checkpoints.init import initialise
from sam_train.model.load import build_sam
from sam_train.model.sam import PIXEL_MEAN, PIXEL_STD, Sam

DIM, DEPTH, HEADS, GRID = 32, 3, 2, 5
DATA = Path(__file__).resolve().parents[2] / "../shared/data"
REAL = DATA / "weights/dinov2_vits14_fp16.pt"
PHOTO = DATA / "photos/dog.jpg"

# The names of transformers < 5, which the published files have, for the module's own.
OLD_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}


def their_model(*, patch: int = 16) -> Dinov2Model:
    """Every parameter random, LayerScale far from 1."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=patch * GRID,
        patch_size=patch,
    )
    model = Dinov2Model(config).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_(std=0.3)
    return model


def our_model() -> Sam:
    return build_sam(
        "vit_b",
        image_size=16 * GRID,
        embed_dim=DIM,
        depth=DEPTH,
        heads=HEADS,
        global_blocks=list(range(DEPTH)),
    ).eval()


def with_old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(new, old)  # noqa: PLW2901
        renamed[name] = tensor
    return renamed


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() / theirs.abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("names", ["transformers 4", "transformers 5"])
def test_embeddings_and_blocks_agree(tmp_path: Path, names: str) -> None:
    theirs, ours = their_model(), our_model()
    state = theirs.state_dict()
    path = tmp_path / "dinov2.pt"
    torch.save(with_old_names(state) if names == "transformers 4" else state, path)
    initialise(ours, f"dinov2:{path}", InitConfig())

    images = torch.randn(2, 3, 16 * GRID, 16 * GRID)
    encoder = ours.image_encoder
    tokens = encoder.patch_embed(images) + encoder.pos_embed
    expected = theirs.embeddings(images)[:, 1:]
    assert_close(tokens.flatten(1, 2), expected)
    # Without the class token on either side: SAM's encoder has none to attend to.
    for block, layer in zip(encoder.blocks, theirs.encoder.layer, strict=True):
        tokens, expected = block(tokens), layer(expected)
        assert_close(tokens.flatten(1, 2), expected)


@torch.no_grad()
def test_patch_14_sees_an_enlarged_patch_as_the_patch(tmp_path: Path) -> None:
    theirs, ours = their_model(patch=14), our_model()
    torch.save(theirs.state_dict(), tmp_path / "dinov2.pt")
    report = initialise(ours, f"dinov2:{tmp_path / 'dinov2.pt'}", InitConfig())
    assert [(e.name, e.note) for e in report.resized] == [
        ("image_encoder.patch_embed.proj.weight", "14x14 -> 16x16")
    ]
    patch = torch.randn(4, 3, 14, 14)
    enlarged = F.interpolate(patch, (16, 16), mode="bilinear", align_corners=False)
    assert_close(
        ours.image_encoder.patch_embed(enlarged).flatten(1),
        theirs.embeddings.patch_embeddings(patch).flatten(1),
    )


def load_photo(side: int) -> Tensor:
    pixels = np.asarray(Image.open(PHOTO).convert("RGB").resize((side, side), Image.BICUBIC))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    return (image - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)


def centred_cosine(a: Tensor, b: Tensor) -> float:
    """Mean over tokens [N, D]; 0 for unrelated features because the common part is taken off."""
    return F.cosine_similarity(a - a.mean(0), b - b.mean(0), dim=-1).mean().item()


@torch.no_grad()
@pytest.mark.skipif(not REAL.is_file(), reason=f"the real DINOv2 weights are not at {REAL}")
@pytest.mark.parametrize(
    ("global_blocks", "least"), [(list(range(12)), 0.98), ([2, 5, 8, 11], 0.7)]
)
def test_real_weights_keep_their_features(global_blocks: list[int], least: float) -> None:
    """A photo at 18 x 18 tokens: patch 16 through ours, patch 14 through Hugging Face's.

    Without the class token on either side. With global attention everywhere only the resampling
    differs (measured: 0.99); with SAM's windows most blocks see a part of the photo.
    """
    grid = 18
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
    theirs = Dinov2Model(config).eval()
    new_names = torch.load(REAL, weights_only=True)
    for new, old in OLD_NAMES.items():
        new_names = {name.replace(old, new): tensor for name, tensor in new_names.items()}
    loaded = theirs.load_state_dict(new_names, strict=False)
    assert loaded.missing_keys == ["embeddings.mask_token"]
    assert not loaded.unexpected_keys
    expected = theirs.embeddings(load_photo(14 * grid))[:, 1:]
    for layer in theirs.encoder.layer:
        expected = layer(expected)
    expected = theirs.layernorm(expected[0])

    sam = build_sam("vit_s", image_size=16 * grid, global_blocks=global_blocks).eval()
    initialise(sam, f"dinov2:{REAL}", InitConfig())
    tokens = sam.image_encoder.patch_embed(load_photo(16 * grid)) + sam.image_encoder.pos_embed
    for block in sam.image_encoder.blocks:
        tokens = block(tokens)
    features = theirs.layernorm(tokens.flatten(1, 2)[0])
    assert centred_cosine(features, expected) >= least
    shuffled = expected[torch.randperm(len(expected), generator=torch.Generator().manual_seed(0))]
    assert abs(centred_cosine(features, shuffled)) < 0.1
