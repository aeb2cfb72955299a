"""Skips an update whose loss or gradient is not finite, on all ranks and without a collective.

A loss that is not finite is made to spoil its gradients (`spoil_if_nonfinite`). Averaging carries
a spoilt gradient of one rank to all of them. The norm of the averaged gradients, which every step
measures anyway, is therefore a flag that is the same on every rank.

A skipped update counts as a step: `global_step`, the schedule and the place in the sample order
advance, weights, moments and the optimizer's own counters do not. All that a step draws is a
function of its number, so a run resumed behind a skipped update equals the unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer


def spoil_if_nonfinite(loss: Tensor) -> Tensor:
    """Return the same loss, whose whole gradient becomes NaN where it is NaN or infinite.

    Finite losses keep their gradients bit for bit: they are multiplied by exactly 1.
    """
    # 0 * inf and 0 * NaN are NaN. A branch on the value would wait for the device.
    return loss * (1 + 0 * loss.detach())


def skip_if_nonfinite(optimizer: Optimizer, norm: Tensor) -> None:
    """Make the coming `optimizer.step` leave weights and state alone where `norm` is not finite.

    Args:
        optimizer: its parameters have their final gradients.
        norm: scalar, of all of them, the same on every rank.
    """
    if _decides_on_device(optimizer):
        # The kernel itself looks at the flag, as with torch.amp.GradScaler: the host need not wait
        # for the backward pass to end before it prepares the next step.
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
    elif not bool(norm.isfinite()):
        # Without gradients the optimizer touches neither weights nor moments, and counts no step.
        for parameter in _parameters(optimizer):
            parameter.grad = None


def _decides_on_device(optimizer: Optimizer) -> bool:
    # Muon's kernel knows no flag, and split tensors (fsdp2) take no whole one beside them.
    return (
        type(optimizer) is AdamW
        and all(group["fused"] for group in optimizer.param_groups)
        and not any(isinstance(p, DTensor) for p in _parameters(optimizer))
    )


def _parameters(optimizer: Optimizer) -> Iterable[nn.Parameter]:
    groups: list[dict[str, Any]] = optimizer.param_groups
    return (parameter for group in groups for parameter in group["params"])


class OnHost:
    """A small tensor on its way to the host, to be read a step later without waiting."""

    def __init__(self, value: Tensor) -> None:
        value = value.detach()
        self._event: torch.cuda.Event | None = None
        if value.is_cuda:
            # Pinned, or the copy would wait; the event says when the host may look.
            self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            # On a CPU too the caller's tensor may change before it is read.
            self._value = value.clone()

    @property
    def later(self) -> bool:
        """True where reading it now would wait for the device."""
        return self._event is not None

    def read(self) -> Tensor:
        """Return the value, once it has arrived."""
        if self._event is not None:
            self._event.synchronize()
        return self._value
