"""Decoding a flat list of masks: gradients everywhere, absent slots, images that do not mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sam_train.model import Sam, build_sam
from sam_train.types import ABSENT, BACKGROUND, FOREGROUND, PAD, Prompts

SIZE = 64
GRID = 32
SMALL = {
    "image_size": SIZE,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "heads": 2,
    "global_blocks": [1],
    "window_size": 5,
    "prompt_dim": 32,
    "decoder_mlp_dim": 64,
}


@pytest.fixture(scope="module")
def sam() -> Sam:
    """Random in every parameter, float64 so that only real differences show."""
    torch.manual_seed(0)
    model = build_sam("vit_t", **SMALL).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def draw(num_masks: int, tokens: int, *, mask: bool, seed: int = 0) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(BACKGROUND, FOREGROUND + 1, (num_masks, tokens), generator=generator)
    labels[:, -1] = PAD
    logits = 5 * torch.randn(num_masks, 1, GRID, GRID, generator=generator)
    return Prompts(
        coords=torch.rand(num_masks, tokens, 2, generator=generator) * SIZE,
        labels=labels,
        mask_logits=logits.double() if mask else None,
    )


def embeddings(images: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 32, 8, 8, generator=generator).double()


def subset(prompts: Prompts, rows: Tensor) -> Prompts:
    logits = prompts.mask_logits
    return Prompts(
        coords=prompts.coords[rows],
        labels=prompts.labels[rows],
        mask_logits=None if logits is None else logits[rows],
    )


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("mask", [True, False])
def test_every_parameter_gets_a_gradient_whatever_is_asked(mask: bool, multimask: bool) -> None:
    torch.manual_seed(0)
    sam = build_sam("vit_t", **SMALL)
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    encoded = sam.encode(images, torch.tensor([[SIZE, 40], [33, SIZE]]))
    prompts = draw(3, 2, mask=mask)
    if prompts.mask_logits is not None:
        prompts.mask_logits = prompts.mask_logits.float()
    got = sam.decode(encoded, torch.tensor([0, 1, 1]), prompts, multimask=multimask)
    (got.mask_logits.square().mean() + got.iou.square().mean()).backward()
    missing = [name for name, p in sam.named_parameters() if p.grad is None]
    assert missing == []
    still = {name for name, p in sam.named_parameters() if not p.grad.any()}  # type: ignore[union-attr]
    unasked = range(4) if multimask else range(1, 4)
    for name in still:
        # Zero where the question had no use for the parameter, and for key biases, which a
        # softmax cannot see.
        assert (
            ("mask_downscaling" in name and not mask)
            or ("no_mask_embed" in name and mask)
            or "k_proj.bias" in name
            or "point_embeddings" in name
            or any(f"hypernetworks_mlps.{i}." in name for i in unasked)
        ), name


def test_every_label_trains_its_own_embedding(sam: Sam) -> None:
    coords = torch.rand(1, 6, 2) * SIZE
    prompts = Prompts(coords=coords, labels=torch.tensor([[PAD, 0, 1, 2, 3, ABSENT]]))
    sam.zero_grad()
    sam.decode(embeddings(1), torch.tensor([0]), prompts, multimask=False).iou.sum().backward()
    encoder = sam.prompt_encoder
    for table in (encoder.not_a_point_embed, *encoder.point_embeddings):
        assert table.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mask", [True, False])
def test_absent_slots_change_nothing(sam: Sam, mask: bool) -> None:
    prompts, index = draw(4, 3, mask=mask), torch.tensor([0, 0, 1, 1])
    blank = torch.full((4, 2), ABSENT)
    nonsense = torch.full((4, 2, 2), 1e4)
    padded = Prompts(
        coords=torch.cat([nonsense, prompts.coords], dim=1),
        labels=torch.cat([blank, prompts.labels], dim=1),
        mask_logits=prompts.mask_logits,
    )
    encoded = embeddings(2).requires_grad_()
    results = []
    for each in (prompts, padded):
        got = sam.decode(encoded, index, each, multimask=True)
        (gradient,) = torch.autograd.grad(got.mask_logits.square().sum(), encoded)
        results.append((got.mask_logits, got.iou, gradient))
    for without, with_absent in zip(*results, strict=True):
        torch.testing.assert_close(with_absent, without, rtol=1e-10, atol=1e-10)


def test_absent_slots_differ_between_masks(sam: Sam) -> None:
    """Masks with two and with four tokens in one batch equal each on its own."""
    long, short = draw(1, 4, mask=False, seed=1), draw(1, 2, mask=False, seed=2)
    blank = torch.full((1, 2), ABSENT)
    both = Prompts(
        coords=torch.cat([long.coords, torch.cat([short.coords, torch.zeros(1, 2, 2)], dim=1)]),
        labels=torch.cat([long.labels, torch.cat([short.labels, blank], dim=1)]),
    )
    encoded, one = embeddings(1), torch.tensor([0])
    together = sam.decode(encoded, torch.tensor([0, 0]), both, multimask=False)
    for k, alone in enumerate((long, short)):
        expected = sam.decode(encoded, one, alone, multimask=False, all_present=True)
        torch.testing.assert_close(together.mask_logits[k], expected.mask_logits[0])
        torch.testing.assert_close(together.iou[k], expected.iou[0])


@pytest.mark.parametrize("mask", [True, False])
def test_a_flat_list_over_images_equals_image_by_image(sam: Sam, mask: bool) -> None:
    """In any order, with an image that has no mask; predictions and gradients."""
    index = torch.tensor([2, 0, 2, 3, 0])
    prompts = draw(5, 3, mask=mask)
    encoded = embeddings(4).requires_grad_()
    got = sam.decode(encoded, index, prompts, multimask=True)
    (gradient,) = torch.autograd.grad(got.mask_logits.square().sum(), encoded)
    assert not gradient[1].any()
    for image in (0, 2, 3):
        rows = (index == image).nonzero()[:, 0]
        one = encoded[image : image + 1].detach().requires_grad_()
        alone = sam.decode(one, torch.zeros_like(rows), subset(prompts, rows), multimask=True)
        torch.testing.assert_close(got.mask_logits[rows], alone.mask_logits)
        torch.testing.assert_close(got.iou[rows], alone.iou)
        (expected,) = torch.autograd.grad(alone.mask_logits.square().sum(), one)
        torch.testing.assert_close(gradient[image : image + 1], expected)


def test_x_is_the_column_and_y_the_row(sam: Sam) -> None:
    """A point at a cell's centre is encoded as that cell: [row, column] of the grid."""
    column, row, cell = 5, 2, SIZE // 8
    centre = torch.tensor([[column * cell + cell / 2 - 0.5, row * cell + cell / 2 - 0.5]])
    prompts = Prompts(coords=centre[None], labels=torch.tensor([[FOREGROUND]]))
    token = sam.prompt_encoder(prompts).tokens[0, 0]
    place = token - sam.prompt_encoder.point_embeddings[FOREGROUND].weight[0]
    grid = sam.prompt_encoder.dense_pe().view(8, 8, -1)
    torch.testing.assert_close(place, grid[row, column])


def test_the_place_of_a_pad_is_ignored(sam: Sam) -> None:
    prompts = draw(2, 3, mask=False)
    moved = Prompts(coords=prompts.coords.clone(), labels=prompts.labels)
    moved.coords[:, -1] += 17
    first, second = (sam.prompt_encoder(p).tokens for p in (prompts, moved))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_bfloat16_autocast_keeps_places_and_parameters_precise() -> None:
    torch.manual_seed(0)
    sam = build_sam("vit_t", **SMALL).eval()
    prompts = draw(2, 3, mask=False)
    images = torch.randint(0, 256, (1, 3, SIZE, SIZE), dtype=torch.uint8)
    sizes, index = torch.tensor([[SIZE, SIZE]]), torch.tensor([0, 0])
    places = sam.prompt_encoder.dense_pe()
    exact = sam.decode(sam.encode(images, sizes), index, prompts, multimask=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(sam.prompt_encoder.dense_pe(), places, rtol=0, atol=0)
        rough = sam.decode(sam.encode(images, sizes), index, prompts, multimask=True)
    rough.mask_logits.float().mean().backward()
    assert {p.grad.dtype for p in sam.parameters() if p.grad is not None} == {torch.float32}
    error = (rough.mask_logits.float() - exact.mask_logits).abs().max()
    assert error < 0.05 * exact.mask_logits.abs().max()
