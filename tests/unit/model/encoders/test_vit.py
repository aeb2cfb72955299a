"""Drop path, windows, relative positions, block recomputation, preprocessing."""

from __future__ import annotations

import pytest
import torch

from sam_train.model import build_sam
from sam_train.model.ops.attention import Windows, relative_positions
from sam_train.model.ops.layers import DropPath


def test_drop_path_keeps_the_expectation_and_the_asked_share() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.3).train()
    out = drop(torch.ones(20000, 2, 2, 3))
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()  # a sample's branch is dropped as a whole
    kept = per_sample[:, 0] != 0
    # 20000 draws: the share of survivors has a standard deviation of .0032.
    assert abs(kept.float().mean().item() - 0.7) < 0.013
    torch.testing.assert_close(per_sample[kept], torch.full_like(per_sample[kept], 1 / 0.7))


def test_drop_path_does_nothing_in_evaluation() -> None:
    x = torch.randn(4, 3)
    assert DropPath(0.9).eval()(x) is x


def test_drop_path_grows_linearly_from_zero_to_the_last_block() -> None:
    with torch.device("meta"):
        blocks = build_sam("vit_b", drop_path=0.6).image_encoder.blocks
    rates = [block.drop_path.probability for block in blocks]
    assert rates == pytest.approx([0.6 * i / 11 for i in range(12)])


@pytest.mark.parametrize(("height", "width", "side"), [(12, 12, 4), (10, 7, 4), (3, 5, 14)])
def test_windows_split_and_join_are_inverse(height: int, width: int, side: int) -> None:
    windows = Windows(height, width, side)
    x = torch.randn(2, height, width, 3)
    down, right = windows.padding
    padded = torch.nn.functional.pad(x, (0, 0, 0, right, 0, down))
    parts = windows.split(padded)
    assert parts.shape[1:] == (side, side, 3)
    torch.testing.assert_close(parts[0], padded[0, :side, :side], rtol=0, atol=0)
    torch.testing.assert_close(windows.join(parts), x, rtol=0, atol=0)


def test_relative_positions_are_looked_up_by_distance() -> None:
    table = torch.arange(7.0)[:, None]
    found = relative_positions(table, size=4)[..., 0]
    expected = torch.tensor([[q - k + 3.0 for k in range(4)] for q in range(4)])
    torch.testing.assert_close(found, expected)


def test_a_relative_position_table_of_another_size_is_resampled() -> None:
    table = torch.linspace(-1, 1, 27)[:, None]
    found = relative_positions(table, size=5)[..., 0]
    assert found.shape == (5, 5)
    torch.testing.assert_close(found, -found.T)  # a straight line through zero stays one
    assert found[1, 0] > 0


def test_recomputing_blocks_changes_no_gradient() -> None:
    sizes = {"image_size": 64, "embed_dim": 32, "depth": 3, "heads": 2, "global_blocks": [0, 2]}
    images = torch.randn(2, 3, 64, 64)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        sam = build_sam("vit_t", checkpoint_blocks=recompute, drop_path=0.5, **sizes).train()
        sam.image_encoder(images).square().mean().backward()
        gradients.append([p.grad for p in sam.image_encoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_padding_is_zero_after_normalisation_and_ignored() -> None:
    sam = build_sam("vit_t", image_size=64)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    noisy = images.clone()
    noisy[:, :, 40:], noisy[:, :, :, 50:] = 255, 3
    sizes = torch.tensor([[40, 50]])
    x = sam.preprocess(images, sizes)
    assert not x[:, :, 40:].any()
    assert not x[:, :, :, 50:].any()
    torch.testing.assert_close(x, sam.preprocess(noisy, sizes), rtol=0, atol=0)


def test_images_of_another_size_are_refused() -> None:
    sam = build_sam("vit_t", image_size=64)
    with pytest.raises(ValueError, match="64 x 64"):
        sam.preprocess(torch.zeros(1, 3, 32, 64, dtype=torch.uint8), torch.tensor([[32, 64]]))


def test_drop_path_follows_its_draws_and_not_its_neighbours() -> None:
    """A photo's branches depend on its own numbers, however photos are split over ranks."""
    torch.manual_seed(0)
    sam = build_sam("vit_t", image_size=64, drop_path=0.5).train()
    depth = len(sam.image_encoder.blocks)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    sizes, draws = torch.full((2, 2), 64), torch.rand(2, depth, 2)
    together = sam.encode(images, sizes, draws=draws)
    for i in range(2):
        alone = sam.encode(images[i : i + 1], sizes[:1], draws=draws[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    kept = sam.encode(images, sizes, draws=torch.zeros(2, depth, 2))
    assert not torch.allclose(kept, together)
