"""Prompt encoder and mask decoder against segment-anything 1.0's, every parameter randomised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sam_train.model import Sam, build_sam
from sam_train.types import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PAD, Prompts

Builder = Callable[..., Any]
Randomise = Callable[[nn.Module, int], None]
Close = Callable[[Tensor, Tensor], None]

SIZE = 96


@dataclass(frozen=True)
class Pair:
    ours: Sam
    theirs: Any


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"decoder_activation": "gelu", "decoder_heads": 8, "decoder_depth": 3},
        {"prompt_dim": 256, "decoder_heads": 8, "decoder_mlp_dim": 2048},
    ],
    ids=["small", "gelu-depth3", "paper"],
)
def pair(request: pytest.FixtureRequest, reference_like: Builder, randomise: Randomise) -> Pair:
    sizes = {"embed_dim": 32, "depth": 1, "heads": 2, "global_blocks": [0], **request.param}
    ours = build_sam("vit_t", image_size=SIZE, patch_size=8, **sizes).eval()
    theirs = reference_like(ours)
    randomise(theirs, 7)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return Pair(ours, theirs)


@dataclass(frozen=True)
class Given:
    """What a person gives for each of M masks of one image, in the reference's terms."""

    points: Tensor | None
    labels: Tensor | None
    boxes: Tensor | None
    masks: Tensor | None

    @property
    def num_masks(self) -> int:
        first = next(x for x in (self.points, self.boxes) if x is not None)
        return first.shape[0]

    def ours(self) -> Prompts:
        coords, labels = [], []
        M = self.num_masks
        if self.boxes is not None:
            coords.append(self.boxes.view(M, 2, 2))
            labels.append(torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]]).expand(M, 2))
        if self.points is not None:
            coords.append(self.points)
            labels.append(self.labels)
        if self.boxes is None:
            coords.append(torch.full((M, 1, 2), 7.0))  # whatever a PAD has as place is ignored
            labels.append(torch.full((M, 1), PAD))
        return Prompts(
            coords=torch.cat(coords, dim=1),
            labels=torch.cat(labels, dim=1),
            mask_logits=self.masks,
        )


def draw(*, points: int, box: bool, mask: bool, num_masks: int = 3, seed: int = 0) -> Given:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (SIZE - 1)

    labels = torch.randint(0, 2, (num_masks, points), generator=generator)
    return Given(
        points=uniform(num_masks, points, 2) if points else None,
        labels=labels if points else None,
        boxes=uniform(num_masks, 4) if box else None,
        masks=8 * torch.randn(num_masks, 1, 48, 48, generator=generator) if mask else None,
    )


def embeddings(pair: Pair, images: int, seed: int = 1) -> Tensor:
    channels = pair.ours.mask_decoder.iou_token.embedding_dim
    return torch.randn(images, channels, 12, 12, generator=torch.Generator().manual_seed(seed))


def reference(pair: Pair, embedding: Tensor, given: Given, *, multimask: bool) -> tuple[Any, Any]:
    """One image [1, C, h, w] and its prompts through the reference."""
    sparse, dense = pair.theirs.prompt_encoder(
        points=None if given.points is None else (given.points, given.labels),
        boxes=given.boxes,
        masks=given.masks,
    )
    logits, iou = pair.theirs.mask_decoder(
        image_embeddings=embedding,
        image_pe=pair.theirs.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
    )
    return logits, iou


CASES = [
    {"points": 1, "box": False, "mask": False},
    {"points": 0, "box": True, "mask": False},
    {"points": 3, "box": True, "mask": False},
    {"points": 9, "box": False, "mask": True},
    {"points": 0, "box": True, "mask": True},
    {"points": 2, "box": True, "mask": True},
]


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: "-".join(f"{k}{int(v)}" for k, v in c.items())
)
def test_each_kind_of_prompt(
    pair: Pair, case: dict[str, Any], multimask: bool, assert_close: Close
) -> None:
    given, embedding = draw(**case), embeddings(pair, 1)
    with torch.no_grad():
        logits, iou = reference(pair, embedding, given, multimask=multimask)
        index = torch.zeros(given.num_masks, dtype=torch.int64)
        for all_present in (False, True):
            got = pair.ours.decode(
                embedding, index, given.ours(), multimask=multimask, all_present=all_present
            )
            assert_close(got.mask_logits, logits)
            assert_close(got.iou, iou)


def test_a_mix_of_points_and_boxes_over_several_images(pair: Pair, assert_close: Close) -> None:
    """One rectangular batch equals the reference, run mask by mask."""
    embedding = embeddings(pair, 3)
    index = torch.tensor([0, 0, 1, 2, 2, 2])
    boxes = [False, True, True, False, True, False]
    given = [
        draw(points=2 if box else 3, box=box, mask=True, num_masks=1, seed=k)
        for k, box in enumerate(boxes)
    ]
    each = [g.ours() for g in given]
    mixed = Prompts(
        coords=torch.cat([p.coords for p in each]),
        labels=torch.cat([p.labels for p in each]),
        mask_logits=torch.cat([p.mask_logits for p in each if p.mask_logits is not None]),
    )
    with torch.no_grad():
        got = pair.ours.decode(embedding, index, mixed, multimask=False)
        expected = [
            reference(pair, embedding[image : image + 1], one, multimask=False)
            for image, one in zip(index.tolist(), given, strict=True)
        ]
    assert_close(got.mask_logits, torch.cat([logits for logits, _ in expected]))
    assert_close(got.iou, torch.cat([iou for _, iou in expected]))


@pytest.mark.parametrize("mask", [False, True])
def test_gradients_equal_the_reference(pair: Pair, mask: bool, assert_close: Close) -> None:
    """Float64, so that a ReLU on its edge does not fall to different sides."""
    given = draw(points=2, box=True, mask=mask)
    generator = torch.Generator().manual_seed(9)
    by_logit = torch.randn(3, 3, 48, 48, generator=generator).double()
    by_iou = torch.randn(3, 3, generator=generator).double()
    inputs = [embeddings(pair, 1).double().requires_grad_() for _ in range(2)]
    try:
        for model in (pair.ours, pair.theirs):
            model.double().zero_grad()
            model.prompt_encoder.pe_layer.float()  # the reference encodes places in float32 only
        index = torch.zeros(3, dtype=torch.int64)
        prompts = given.ours()
        if given.masks is not None:
            given = Given(given.points, given.labels, given.boxes, given.masks.double())
        got = pair.ours.decode(inputs[0], index, prompts, multimask=True)
        ((got.mask_logits * by_logit).sum() + (got.iou * by_iou).sum()).backward()
        logits, iou = reference(pair, inputs[1], given, multimask=True)
        ((logits * by_logit).sum() + (iou * by_iou).sum()).backward()
        assert inputs[0].grad is not None
        assert inputs[1].grad is not None
        assert_close(inputs[0].grad, inputs[1].grad)
        theirs = dict(pair.theirs.named_parameters())
        largest = max(p.grad.abs().max() for p in theirs.values() if p.grad is not None)
        for name, parameter in pair.ours.named_parameters():
            if name.startswith("image_encoder"):
                continue
            assert parameter.grad is not None, name
            expected = theirs[name].grad
            difference = parameter.grad - (0.0 if expected is None else expected)
            assert difference.abs().max() <= 1e-7 * largest, name
    finally:
        pair.ours.float()
        pair.theirs.float()
