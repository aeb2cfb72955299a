from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sam_train.model.checkpoints.state_dicts import (
    from_dinov2,
    from_huggingface,
    from_mae,
    from_official,
    resize_patch_kernel,
    resize_position_table,
    resize_relative_positions,
)


@pytest.mark.parametrize("prefix", ["", "sam.", "module.sam.", "sam._orig_mod."])
def test_official_names_lose_a_wrappers_prefix(prefix: str) -> None:
    state = {
        f"{prefix}image_encoder.pos_embed": torch.ones(1),
        f"{prefix}pixel_mean": torch.ones(1),
    }
    result = from_official(state)
    assert list(result.tensors) == ["image_encoder.pos_embed"]
    assert result.skipped == {f"{prefix}pixel_mean": "constant of the model"}


def test_official_names_compiled_by_module() -> None:
    state = {"sam.image_encoder._orig_mod.neck.0.weight": torch.ones(1)}
    assert list(from_official(state).tensors) == ["image_encoder.neck.0.weight"]


def test_tensors_outside_the_prefix_are_named() -> None:
    state = {"sam.mask_decoder.iou_token.weight": torch.ones(1), "ema.count": torch.ones(1)}
    assert from_official(state).skipped == {"ema.count": "outside the model"}


def test_huggingface_copies_of_the_fourier_matrix_must_agree() -> None:
    beside, inside = "shared_image_embedding", "prompt_encoder.shared_embedding"
    matrix = torch.randn(2, 4)
    both = {f"{beside}.positional_embedding": matrix, f"{inside}.positional_embedding": matrix}
    ours = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    assert torch.equal(from_huggingface(both).tensors[ours], matrix)
    only_beside = {f"{beside}.positional_embedding": matrix}
    assert torch.equal(from_huggingface(only_beside).tensors[ours], matrix)
    both[f"{inside}.positional_embedding"] = matrix + 1
    with pytest.raises(ValueError, match="differs from its copy"):
        from_huggingface(both)


def test_mae_class_token_is_the_first_position() -> None:
    table = torch.arange(5.0).reshape(1, 5, 1)
    positions = from_mae({"pos_embed": table}).tensors["image_encoder.pos_embed"]
    assert positions.tolist() == [[[[1.0], [2.0]], [[3.0], [4.0]]]]


def test_mae_refuses_what_a_plain_vit_has_not() -> None:
    with pytest.raises(ValueError, match=r"blocks\.0\.ls1\.gamma"):
        from_mae({"blocks.0.ls1.gamma": torch.ones(2)})
    with pytest.raises(ValueError, match="position table"):
        from_mae({"pos_embed": torch.ones(1, 7, 2)})


def test_dinov2_folds_layer_scale_into_rows() -> None:
    layer = "encoder.layer.0"
    state = {
        f"{layer}.mlp.fc2.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float16),
        f"{layer}.mlp.fc2.bias": torch.tensor([5.0, 6.0], dtype=torch.float16),
        f"{layer}.layer_scale2.lambda1": torch.tensor([10.0, 0.5], dtype=torch.float16),
    }
    result = from_dinov2(state)
    weight = result.tensors["image_encoder.blocks.0.mlp.lin2.weight"]
    assert weight.tolist() == [[10.0, 20.0], [1.5, 2.0]]
    assert weight.dtype == torch.float32
    assert result.tensors["image_encoder.blocks.0.mlp.lin2.bias"].tolist() == [50.0, 3.0]
    assert len(result.tensors) == 2


@pytest.mark.parametrize(
    "name", ["encoder.layer.0.mlp.weights_in.weight", "encoder.layer.0.attention.q_proj.weight"]
)
def test_dinov2_refuses_half_a_block(name: str) -> None:
    with pytest.raises(ValueError, match="block 0"):
        from_dinov2({name: torch.ones(2, 2)})


def test_dinov2_of_a_classifier_with_registers() -> None:
    state = {
        "dinov2.embeddings.patch_embeddings.projection.bias": torch.ones(2),
        "dinov2.embeddings.register_tokens": torch.ones(1, 4, 2),
        "classifier.weight": torch.ones(10, 2),
    }
    result = from_dinov2(state)
    assert list(result.tensors) == ["image_encoder.patch_embed.proj.bias"]
    assert result.skipped == {
        "dinov2.embeddings.register_tokens": "register tokens",
        "classifier.weight": "classifier",
    }


def smooth_table(side: int) -> Tensor:
    """[1, side, side, 2] sampled at cell centres from a plane over the unit square."""
    centres = (torch.arange(side) + 0.5) / side
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([rows, columns], dim=-1)[None]


@pytest.mark.parametrize(("old", "new"), [(8, 20), (20, 8), (14, 64)])
def test_position_table_keeps_a_plane_and_its_axes(old: int, new: int) -> None:
    resized = resize_position_table(smooth_table(old), (new, new))
    inner = slice(new // 4, -(new // 4))  # away from the border, where bicubic runs out of table
    difference = resized - smooth_table(new)
    # torch's bicubic (a = -0.75) bends a plane by a few per cent of a cell; aligned corners would
    # be off by more than 0.014 here, exchanged axes by much more.
    assert difference[:, inner, inner].abs().max() < 0.006


def test_relative_positions_keep_distance_zero_in_the_middle() -> None:
    table = torch.arange(-63.0, 64.0)[:, None].expand(127, 3)  # distance itself, at 64 tokens
    resized = resize_relative_positions(table, 63)
    assert resized.shape == (63, 3)
    assert resized[31].abs().max() < 1e-4
    assert torch.allclose(resized, -resized.flip(0), atol=1e-4)
    steps = resized[1:] - resized[:-1]
    assert torch.allclose(steps, torch.full_like(steps, 127 / 63), atol=1e-4)


def test_patch_kernel_gives_an_enlarged_patch_the_same_embedding() -> None:
    torch.manual_seed(0)
    kernel, patches = torch.randn(8, 3, 14, 14), torch.randn(5, 3, 14, 14)
    enlarged = F.interpolate(patches, (16, 16), mode="bilinear", align_corners=False)
    expected = F.conv2d(patches, kernel)
    assert torch.allclose(
        F.conv2d(enlarged, resize_patch_kernel(kernel, (16, 16))), expected, atol=1e-4
    )


def test_patch_kernel_of_the_same_size_is_unchanged() -> None:
    kernel = torch.randn(2, 3, 4, 4)
    assert torch.allclose(resize_patch_kernel(kernel, (4, 4)), kernel, atol=1e-6)
