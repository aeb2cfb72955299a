"""The cost of a training step's two parts beyond weights, gradients and moments.

Encoder and rounds meet only at the image embedding, so their costs add up: while the rounds run,
the encoder's saved activations lie still. Each part is run by itself under a ledger, the encoder
once for each way of recomputing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward

from sam_train.cluster.plan.fake import StepModule
from sam_train.cluster.plan.ledger import Ledger, Work
from sam_train.model import Sam
from sam_train.runtime.devices import LOW_PRECISIONS
from sam_train.types import Batch


@dataclass(slots=True, kw_only=True)
class Flops:
    """The FLOPs of one part for one micro-batch's images."""

    forward: Counter[str] = field(default_factory=Counter)
    """Forward FLOPs by module."""
    backward: int = 0
    recomputed: int = 0

    @property
    def total(self) -> int:
        """The sum of forward, backward and recomputed FLOPs."""
        return self.forward.total() + self.backward + self.recomputed


class Gradients(StrEnum):
    """The fate of the encoder's gradients in a micro-batch's backward pass."""

    made = "made"
    """The first micro-batch after an update, in which gradients grow as the activations go."""
    added = "added"
    """A later micro-batch, in which each gradient is added to the one that is there."""
    sent = "sent"
    """Gradients that are averaged at once; the strategy counts the part that stays."""


@dataclass(slots=True, kw_only=True)
class EncoderCost:
    """Bytes above weights, moments, batch and the gradients of earlier micro-batches."""

    forward_peak: int
    saved: int
    """Bytes kept while the rounds run: saved activations, and autocast's copies of the weights."""
    backward_peak: int
    flops: Flops
    work: Counter[Work]


@dataclass(slots=True, kw_only=True)
class RoundsCost:
    """Bytes above those of `EncoderCost` and the encoder's saved activations."""

    peak: int
    at_end: int
    """The gradients of embedding and decoder, which wait for the backward pass."""
    flops: Flops
    work: Counter[Work]


def modules_of(sam: Sam) -> dict[str, list[nn.Module]]:
    """Name the parts by which parameters and FLOPs are shown, an inner one behind its outer one."""
    encoder, decoder = sam.image_encoder, sam.mask_decoder
    parts: dict[str, Sequence[nn.Module]] = {
        **{f"encoder: {name}": members for name, members in encoder.parts().items()},
        "prompt encoder": [sam.prompt_encoder],
        "decoder: upscaling and heads": [decoder],
        "decoder: two-way transformer": [decoder.transformer],
    }
    return {name: list(members) for name, members in parts.items() if members}


def autocast(module: StepModule) -> AbstractContextManager[Any]:
    """Open the autocast that the Trainer puts around a step."""
    if module.cfg.trainer.precision not in LOW_PRECISIONS:
        return nullcontext()
    # The fake CPU's float16 has as many bytes.
    half = module.cfg.trainer.precision == "16-mixed"
    return torch.autocast(module.device.type, torch.float16 if half else torch.bfloat16)


def _known(module: StepModule, batch: Batch) -> list[Tensor]:
    tensors = [getattr(batch, name) for name in batch.__slots__]
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    return [
        *module.parameters(),
        *module.buffers(),
        *grads,
        *(t for t in tensors if isinstance(t, Tensor)),
    ]


def encoder_cost(
    module: StepModule, batch: Batch, *, recompute: str, gradients: Gradients
) -> EncoderCost:
    """Encode a batch, backpropagate through the encoder, and count.

    Args:
        module: of real or fake tensors; its gradients are gone afterwards.
        recompute: as `model.checkpoint_blocks`.
        gradients: of the encoder.
    """
    encoder = module.sam.image_encoder.train()
    hooks = []
    for unit in encoder.units():
        unit.recompute = recompute
    for parameter in (p for p in encoder.parameters() if p.requires_grad):
        parameter.grad = torch.zeros_like(parameter) if gradients == Gradients.added else None
        if gradients == Gradients.sent:
            hook = parameter.register_post_accumulate_grad_hook(_send)  # type: ignore[no-untyped-call]
            hooks.append(hook)
    # Nothing to go back through where all of it is frozen.
    trained = any(parameter.requires_grad for parameter in encoder.parameters())
    ledger = Ledger(_known(module, batch))
    with ledger, ledger.attribute(modules_of(module.sam)):
        with autocast(module), ledger.phase() as forward:
            embeddings = module.encode(batch)
        # `rounds_cost` counts this gradient in `at_end`, so its bytes are subtracted below.
        gradient = torch.empty_like(embeddings)
        with ledger.phase() as backward:
            if trained:
                back(embeddings, gradient)
    for hook in hooks:
        hook.remove()
    for parameter in encoder.parameters():
        parameter.grad = None
    # Only recomputation runs a module's forward pass in the backward phase; the rest is backward.
    own = backward.flops.pop("", 0)
    return EncoderCost(
        forward_peak=forward.peak,
        saved=forward.at_end,
        backward_peak=backward.peak - gradient.untyped_storage().nbytes(),
        flops=Flops(forward=forward.flops, backward=own, recomputed=backward.flops.total()),
        work=forward.work + backward.work,
    )


def rounds_cost(module: StepModule, batch: Batch) -> RoundsCost:
    """Run all rounds on an embedding of zeros, with their backward passes, and count."""
    sam = module.sam.train()
    side, channels = sam.prompt_encoder.grid, sam.prompt_encoder.no_mask_embed.embedding_dim
    shape = (len(batch.keys), channels, side, side)
    # A leaf that requires gradients, as the decoder's backward passes reach the embeddings.
    embeddings = torch.zeros(shape, device=module.device, requires_grad=True)
    ledger = Ledger([*_known(module, batch), embeddings])
    # Autocast's copies of the decoder's weights go before the backward pass.
    with ledger, ledger.attribute(modules_of(sam)), ledger.phase() as phase, autocast(module):
        loss = module.rounds_step(embeddings, batch)
    assert loss.requires_grad
    own = phase.flops.pop("", 0)
    return RoundsCost(
        peak=phase.peak,
        at_end=phase.at_end,
        flops=Flops(forward=phase.flops, backward=own),
        work=phase.work,
    )


def _send(parameter: Tensor) -> None:
    parameter.grad = None


def back(output: Tensor, gradient: Tensor) -> None:
    """Run the backward pass of `output.backward(gradient)`.

    That method would switch off `fake`'s GPU kernels during recomputation.
    """
    _engine_run_backward((output,), (gradient,), False, False, (), True, accumulate_grad=True)
