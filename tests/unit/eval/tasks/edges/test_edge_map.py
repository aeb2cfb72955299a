import numpy as np
import pytest
import torch
from scipy import ndimage

from sam_train.eval.tasks.edges.edge_map import edge_map, edge_nms, outer_boundary, sobel

skimage_segmentation = pytest.importorskip("skimage.segmentation", reason="scikit-image is absent")


def disc(
    size: int, centre: tuple[float, float], radius: float, *, soft: float = 1.0
) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2).sqrt()
    return torch.sigmoid((radius - distance) / soft)


def test_sobel_equals_scipy() -> None:
    values = torch.rand(3, 11, 17, generator=torch.Generator().manual_seed(0))
    found = sobel(values)
    for mask, gradient in zip(values.numpy(), found.numpy(), strict=True):
        for component, axis in enumerate((1, 0)):
            expected = ndimage.sobel(mask, axis=axis, mode="nearest")
            assert np.allclose(gradient[component], expected, atol=1e-6)


def test_outer_boundary_equals_scikit_image() -> None:
    masks = torch.rand(4, 13, 9, generator=torch.Generator().manual_seed(1)) > 0.6
    for mask, found in zip(masks.numpy(), outer_boundary(masks).numpy(), strict=True):
        expected = skimage_segmentation.find_boundaries(mask.astype(int), mode="outer") & ~mask
        assert np.array_equal(found, expected)


def test_a_disc_gives_a_closed_line_around_it() -> None:
    mask = disc(48, (24, 23), 12)
    edges = edge_map(mask[None]).numpy()
    assert edges.dtype == np.float32
    assert edges.max() == 1.0
    line = edges > 0
    assert not (line & (mask > 0.5).numpy()).any()
    assert line.sum() > 50
    background, pieces = ndimage.label(~line)
    assert pieces == 2  # inside and outside
    assert background[23, 24] != background[0, 0]


def test_the_maximum_over_masks_in_any_order_and_chunk() -> None:
    masks = torch.stack([disc(40, (12 + 3 * k, 20), 6 + k, soft=0.5 + k) for k in range(5)])
    whole = edge_map(masks)
    assert torch.equal(whole, edge_map(masks, masks_at_once=1))
    assert torch.allclose(whole, edge_map(masks.flip(0), masks_at_once=2))
    # The sharpest mask has the strongest edge, and being one of many does not move it.
    strongest = torch.stack([edge_map(mask[None]) * (whole > 0) for mask in masks]).amax(0)
    assert ((whole > 0) <= (strongest > 0)).all()


def test_uncertain_masks_have_weaker_edges() -> None:
    sharp, vague = disc(64, (16, 16), 8, soft=0.5), disc(64, (46, 46), 8, soft=4.0)
    edges = edge_map(torch.stack([sharp, vague]))
    assert edges[:32, :32].max() == 1.0
    assert 0 < edges[32:, 32:].max() < 0.5


def test_probabilities_that_never_reach_a_mask_have_no_edges() -> None:
    for masks in (torch.zeros(0, 5, 6), torch.full((2, 5, 6), 0.4), torch.ones(1, 5, 6)):
        edges = edge_map(masks)
        assert edges.shape == (5, 6)
        assert not edges.any()


def test_half_precision_is_computed_in_float32() -> None:
    masks = disc(32, (16, 16), 9)[None]
    assert torch.allclose(edge_map(masks.bfloat16()), edge_map(masks.bfloat16().float()))


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.785398, 1.2, 1.570796])
def test_nms_keeps_the_crest_of_a_ridge(angle: float) -> None:
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(41.0), indexing="ij")
    normal = torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
    distance = (x - 20) * normal[0] + (y - 20) * normal[1]
    ridge = torch.exp(-((distance / 2.5) ** 2))
    thin = edge_nms(ridge, normal[:, None, None].expand(2, 41, 41))
    assert (thin[distance.abs() > 1.0] == 0).all()
    assert (thin[distance.abs() < 0.45] > 0).all()
    assert torch.equal(thin[thin > 0], ridge[thin > 0])


def test_the_shape_is_checked() -> None:
    with pytest.raises(ValueError, match="not \\[K, H, W\\]"):
        edge_map(torch.zeros(5, 6))
