"""Attention backends against a formula in float64, against each other, and as a setting."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sam_train.errors import UserError
from sam_train.model import build_sam
from sam_train.model.ops.backends import BACKENDS, FEW_KEYS, AttentionLayer
from sam_train.types import FOREGROUND, PAD, Prompts


def problem(keys: int, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(keys)
    shapes = ((2, 3, 5, 12), (2, 3, keys, 12), (2, 3, keys, 8))
    q, k, v = (torch.randn(shape, generator=draws).to(dtype) for shape in shapes)
    bias = torch.zeros(2, 1, 1, keys, dtype=dtype)
    bias[:, :, :, -2:] = -math.inf
    return q, k, v, bias


@pytest.mark.parametrize("name", ["auto", "sdpa", "math"])
@pytest.mark.parametrize("keys", [7, FEW_KEYS + 1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_every_backend_computes_the_formula(
    *, name: str, keys: int, dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v, bias = problem(keys, dtype=dtype)
    for added in (None, bias):
        scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double())
        exponents = (scores if added is None else scores + added.double()).exp()
        weights = exponents / exponents.sum(-1, keepdim=True)
        expected = torch.einsum("bhqk,bhkd->bhqd", weights, v.double())
        found = BACKENDS[name](q, k, v, bias=added)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_auto_is_one_of_the_others_to_the_bit() -> None:
    for keys, name in ((FEW_KEYS, "math"), (FEW_KEYS + 1, "sdpa")):
        q, k, v, bias = problem(keys)
        assert torch.equal(BACKENDS["auto"](q, k, v, bias=bias), BACKENDS[name](q, k, v, bias=bias))


def test_the_setting_reaches_every_attention_of_the_model_and_its_gradients() -> None:
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    coords = torch.tensor([[[9.0, 30.0], [0.0, 0.0]]])
    prompts = Prompts(coords=coords, labels=torch.tensor([[FOREGROUND, PAD]]))
    answers = {}
    for name in ("math", "sdpa"):
        torch.manual_seed(0)
        sam = build_sam("vit_t", image_size=64, attention=name)
        layers = [m for m in sam.modules() if isinstance(m, AttentionLayer)]
        assert len(layers) == 6 + 7  # blocks; three in each layer of the decoder and the last one
        assert {layer.backend for layer in layers} == {BACKENDS[name]}
        embeddings = sam.encode(images, torch.tensor([[64, 64]]))
        answer = sam.decode(embeddings, torch.tensor([0]), prompts, multimask=True)
        answer.mask_logits.square().mean().backward()
        gradient = sam.image_encoder.blocks[0].attn.rel_pos_h.grad
        answers[name] = (answer.mask_logits, gradient)
    for one, other in zip(*answers.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.attention=flash is not one of sdpa, math, auto"):
        build_sam("vit_t", attention="flash")
