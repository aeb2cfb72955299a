"""A backward per round gives the gradients of one big graph, and holds one round at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sam_train.model import Sam, build_sam
from sam_train.train.rounds_backward import Play, backward_round_by_round
from sam_train.types import FOREGROUND, PAD, Prompts

ROUNDS = 4


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    model = build_sam("vit_t", image_size=64).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    return model


def decoder_parameters(sam: Sam) -> list[Tensor]:
    return [*sam.prompt_encoder.parameters(), *sam.mask_decoder.parameters()]


def play_for(sam: Sam, *, masks: int = 3, joined: bool = False) -> Play:
    """Rounds as in training: three masks in the first; gradient through the logits if `joined`."""

    def play(embeddings: Tensor) -> Iterator[Tensor]:
        coords = torch.arange(4.0 * masks).view(masks, 2, 2) * 3
        labels = torch.tensor([[FOREGROUND, PAD]] * masks)
        index = torch.arange(masks) % embeddings.shape[0]
        fed_back = None
        for r in range(ROUNDS):
            prompts = Prompts(coords=coords.double(), labels=labels, mask_logits=fed_back)
            prediction = sam.decode(embeddings, index, prompts, multimask=r == 0)
            yield (prediction.mask_logits - r).pow(2).mean() + prediction.iou.sin().sum()
            fed_back = prediction.mask_logits[:, :1]
            fed_back = fed_back if joined else fed_back.detach()

    return play


def gradients(
    sam: Sam, embeddings: Tensor, *, plain: bool, joined: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    sam.zero_grad()
    played = play_for(sam, joined=joined)
    # A factor in front: the scale that accumulation and loss scaling put there must come through.
    inputs = embeddings * 1.5
    if plain:
        loss = torch.stack(list(played(inputs))).sum()
    else:
        loss = backward_round_by_round(
            played, embeddings=inputs, parameters=decoder_parameters(sam), joined=joined
        )
    (loss * 0.25).backward()
    found = {n: p.grad.clone() for n, p in sam.named_parameters() if p.grad is not None}
    assert embeddings.grad is not None
    return loss.detach(), found | {"embeddings": embeddings.grad}


@pytest.mark.parametrize("joined", [False, True])
def test_gradients_equal_the_plain_graphs(sam: Sam, joined: bool) -> None:
    torch.manual_seed(1)
    channels = sam.prompt_encoder.no_mask_embed.weight.shape[1]
    start = torch.randn(2, channels, 4, 4, dtype=torch.float64)
    loss, plain = gradients(sam, start.clone().requires_grad_(), plain=True, joined=joined)
    again, ours = gradients(sam, start.clone().requires_grad_(), plain=False, joined=joined)
    torch.testing.assert_close(again, loss, rtol=1e-6, atol=0)
    decoder = {f"prompt_encoder.{n}" for n, _ in sam.prompt_encoder.named_parameters()}
    decoder |= {f"mask_decoder.{n}" for n, _ in sam.mask_decoder.named_parameters()}
    assert set(ours) == decoder | {"embeddings"}
    for name, gradient in ours.items():
        # The plain graph leaves None where no round used a parameter; ours says zero.
        expected = plain.get(name, torch.zeros_like(gradient))
        scale = expected.abs().max()
        assert (gradient - expected).abs().max() <= 1e-9 * scale, name


def test_unused_parameters_get_zeros_not_none() -> None:
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    embeddings = torch.ones(1, requires_grad=True)
    loss = backward_round_by_round(
        lambda e: iter([(e * used).sum()]), embeddings=embeddings, parameters=[used, unused]
    )
    loss.backward()
    assert unused.grad is not None
    assert unused.grad.tolist() == [0, 0]
    assert used.grad is not None
    assert used.grad.tolist() == [1, 1]


def test_each_rounds_graph_is_gone_before_the_next_begins() -> None:
    weight = torch.nn.Parameter(torch.ones(8))
    alive: list[weakref.ref[Tensor]] = []

    def play(embeddings: Tensor) -> Iterator[Tensor]:
        for _ in range(3):
            gc.collect()
            assert [ref for ref in alive if ref() is not None] == []
            hidden = embeddings * weight
            alive.append(weakref.ref(hidden))
            loss = hidden.pow(2).sum()
            del hidden
            yield loss
            del loss

    embeddings = torch.ones(8, requires_grad=True)
    backward_round_by_round(play, embeddings=embeddings, parameters=[weight]).backward()
    assert len(alive) == 3
    assert embeddings.grad is not None
    assert embeddings.grad.tolist() == [6.0] * 8


def test_without_gradients_it_is_a_plain_sum() -> None:
    with torch.no_grad():
        loss = backward_round_by_round(
            lambda e: iter([e.sum(), 2 * e.sum()]), embeddings=torch.ones(3), parameters=[]
        )
    assert loss.item() == 9


def test_without_gradients_no_graph_is_made() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    seen = []

    def play(embeddings: Tensor) -> Iterator[Tensor]:
        seen.append(torch.is_grad_enabled() or (embeddings * weight).requires_grad)
        yield embeddings.sum()

    with torch.no_grad():
        backward_round_by_round(play, embeddings=torch.ones(3), parameters=[weight])
    assert seen == [False]


def test_the_sum_carries_no_graph_of_the_rounds() -> None:
    """Behind the sum there is one node, whatever the number of rounds."""
    weight = torch.nn.Parameter(torch.ones(3))
    embeddings = torch.ones(3, requires_grad=True)
    loss = backward_round_by_round(
        lambda e: ((e * weight).sum() for _ in range(3)), embeddings=embeddings, parameters=[weight]
    )
    assert loss.item() == 9
    assert loss.grad_fn is not None
    reached = {node for node, _ in loss.grad_fn.next_functions if node is not None}
    assert {type(node).__name__ for node in reached} == {"AccumulateGrad"}


def test_a_loss_scale_keeps_what_float16_would_lose() -> None:
    """d loss / d weight = 2^-26 is below float16's smallest number; 2^14 times that is not.

    Whoever calls backward multiplies by the scale, and the gradients come out with it.
    """
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    embeddings = torch.ones(2, dtype=torch.float16, requires_grad=True)
    small = torch.tensor(2.0**-13, dtype=torch.float16)

    def play(given: Tensor) -> Iterator[Tensor]:
        for _ in range(3):
            yield ((given * weight * small) * small).float().sum()

    scale = torch.tensor(2.0**14)
    loss = backward_round_by_round(
        play, embeddings=embeddings, parameters=[weight], loss_scale=scale
    )
    (loss * scale).backward()
    for tensor in (weight, embeddings):
        assert tensor.grad is not None
        assert tensor.grad.tolist() == [3 * 2.0**-26 * 2.0**14] * 2
    weight.grad = None
    plain = backward_round_by_round(play, embeddings=embeddings, parameters=[weight])
    (plain * scale).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0, 0]
