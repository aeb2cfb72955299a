"""The image encoder against segment-anything 1.0's, float32, every parameter randomised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sam_train.model import Sam, build_sam
from sam_train.model.ops import backends as attention

Builder = Callable[..., nn.Module]
Randomise = Callable[[nn.Module, int], None]
Close = Callable[[Tensor, Tensor], None]


def small(**sizes: Any) -> Sam:
    """Windows of 5 on a 12 x 12 grid: padded, and mixed with global blocks."""
    given = {"image_size": 96, "embed_dim": 48, "depth": 4, "heads": 3}
    blocks = {"global_blocks": [1, 3], "window_size": 5}
    return build_sam("vit_t", patch_size=8, **{**given, **blocks, **sizes}).eval()


def twin(reference: nn.Module, ours: Sam, randomise: Randomise) -> None:
    """The same random weights in both, loaded strictly in both directions."""
    randomise(reference, 1)
    ours.load_state_dict(reference.state_dict(), strict=True)
    reference.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"window_size": 4},  # the grid divides into windows exactly
        {"global_blocks": [0, 1, 2, 3]},
        {"image_size": 32, "window_size": 14},  # windows larger than the grid
    ],
    ids=["padded", "exact", "global", "large-windows"],
)
def test_embeddings_equal_the_reference(
    sizes: dict[str, Any], reference_like: Builder, randomise: Randomise, assert_close: Close
) -> None:
    ours = small(**sizes)
    reference = reference_like(ours)
    twin(reference, ours, randomise)
    S = ours.image_size
    images = torch.randn(2, 3, S, S, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_close(ours.image_encoder(images), reference.image_encoder(images))


@pytest.mark.parametrize("few_keys", [0, 10_000], ids=["fused", "plain"])
def test_every_attention_kernel_equals_the_reference(
    *,
    few_keys: int,
    reference_like: Builder,
    randomise: Randomise,
    assert_close: Close,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "FEW_KEYS", few_keys)
    ours = small()
    reference = reference_like(ours)
    twin(reference, ours, randomise)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_close(ours.image_encoder(images), reference.image_encoder(images))


def test_vit_b_equals_the_reference(
    reference_like: Builder, randomise: Randomise, assert_close: Close
) -> None:
    ours = build_sam("vit_b", image_size=256).eval()
    reference = reference_like(ours)
    twin(reference, ours, randomise)
    images = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert_close(ours.image_encoder(images), reference.image_encoder(images))


def test_encoder_gradients_equal_the_reference(
    reference_like: Builder, randomise: Randomise, assert_close: Close
) -> None:
    ours = small()
    reference = reference_like(ours)
    twin(reference, ours, randomise)
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, 96, 96, generator=generator)
    weights = torch.randn(2, 128, 12, 12, generator=generator)
    for model in (ours, reference):
        (model.image_encoder(images) * weights).sum().backward()
    theirs = dict(reference.image_encoder.named_parameters())
    for name, parameter in ours.image_encoder.named_parameters():
        assert parameter.grad is not None, name
        assert_close(parameter.grad, theirs[name].grad)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_names_shapes_and_order_are_those_of_the_reference(
    name: str, segment_anything: Any
) -> None:
    with torch.device("meta"):
        ours = build_sam(name).state_dict()
        theirs = segment_anything.sam_model_registry[name]().state_dict()
    assert [(k, v.shape) for k, v in ours.items()] == [(k, v.shape) for k, v in theirs.items()]


@pytest.mark.parametrize("name", ["vit_s", "vit_t"])
def test_our_own_sizes_load_into_the_reference_and_back(name: str, reference_like: Builder) -> None:
    with torch.device("meta"):
        ours = build_sam(name)
        reference = reference_like(ours)
        reference.load_state_dict(ours.state_dict(), strict=True)
        ours.load_state_dict(reference.state_dict(), strict=True)
    # Strict loading compares names and shapes; the order is what optimizers number them by.
    assert list(ours.state_dict()) == list(reference.state_dict())


def test_preprocessing_equals_the_reference(reference_like: Builder, assert_close: Close) -> None:
    ours = small()
    reference = reference_like(ours)
    generator = torch.Generator().manual_seed(4)
    sizes = [(96, 61), (40, 96)]
    images = torch.randint(0, 256, (2, 3, 96, 96), generator=generator, dtype=torch.uint8)
    got = ours.preprocess(images, torch.tensor(sizes))
    for k, (h, w) in enumerate(sizes):
        assert_close(got[k], reference.preprocess(images[k, :, :h, :w].float()))


@pytest.mark.parametrize("size", [(96, 61), (40, 96), (96, 96)])
def test_upscaling_to_the_original_size_equals_the_reference(
    size: tuple[int, int], reference_like: Builder, assert_close: Close
) -> None:
    ours = small()
    reference = reference_like(ours)
    logits = torch.randn(3, 2, 48, 48, generator=torch.Generator().manual_seed(5))
    original = (size[0] * 2 + 1, size[1] * 2 - 1)
    assert_close(
        ours.postprocess(logits, image_size=size, original_size=original),
        reference.postprocess_masks(logits, size, original),
    )
