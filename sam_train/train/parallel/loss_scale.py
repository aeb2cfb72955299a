"""float16 for cards without bfloat16: `16-mixed`, with a loss scale that follows the gradients.

float16 ends at 6e-8 below and 65,504 above, where bfloat16 has float32's range. Losses are
therefore multiplied before each backward pass, and gradients, which are float32 where they are
added up, divided before anyone looks at them. The scale is a power of two: neither rounds.

An update whose gradient is not finite is skipped like any other (`health.skipping`), and halves
the scale; `GROWTH_INTERVAL` sound ones in a row double it. Both are decided on the device from the
norm that every step measures anyway. It is the same on all ranks: nobody waits, no rank differs.
The rule and its figures are those of `torch.amp.GradScaler`. That class itself looks at gradients
of its own accord, knows no split tensors, and leaves unscaling to fused optimizers, too late for
clipping.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.precision.precision import Precision
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

FIRST, GROWTH, BACKOFF, GROWTH_INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """The scale and the number of sound updates since it last changed."""

    def __init__(self) -> None:
        self.value = torch.tensor(FIRST)
        """float32 scalar, a power of two."""
        self.used = self.value
        """The scale of the newest update, which may have changed `value`."""
        self._sound = torch.tensor(0)

    def on(self, device: torch.device) -> Tensor:
        """Return the scale on `device`, where it then stays."""
        # Made on the CPU, because the module is built before its device is known.
        if self.value.device != device:
            self.value, self._sound = self.value.to(device), self._sound.to(device)
        return self.value

    @torch.no_grad()
    def unscale(self, model: nn.Module) -> None:
        """Divide all gradients of `model` by the scale, in place; exact."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        # A split tensor takes no plain scalar tensor; its local part is all that this rank has
        # anyway.
        local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        if local:
            # The inverse of a power of two is exact, and one kernel does all gradients.
            torch._foreach_mul_(local, 1 / self.on(local[0].device))

    @torch.no_grad()
    def update(self, norm: Tensor) -> None:
        """Update the scale after a step of the optimizer.

        Args:
            norm: scalar, of its unscaled gradient; the same on every rank.
        """
        self.used = value = self.on(norm.device)
        sound = norm.isfinite()
        # `where`, not `if`: a branch would wait for the backward pass.
        counted = torch.where(sound, self._sound + 1, 0)
        full = counted == GROWTH_INTERVAL
        # The scale itself must stay finite, or every later loss is infinite.
        grown = torch.where(full & (value * GROWTH).isfinite(), value * GROWTH, value)
        self.value = torch.where(sound, grown, value * BACKOFF)
        self._sound = torch.where(full, 0, counted)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, named as torch.amp.GradScaler names it."""
        # Waits for the device, at a checkpoint only.
        return {"scale": float(self.value), "_growth_tracker": int(self._sound)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of the run that resumes."""
        self.value = torch.tensor(float(state["scale"]), device=self.value.device)
        self._sound = torch.tensor(int(state["_growth_tracker"]), device=self._sound.device)
        self.used = self.value


class HalfPrecision(MixedPrecision):
    """Lightning's `16-mixed`, on CPUs too, with our scale in place of its scaler."""

    def __init__(self, device: str) -> None:
        # Given none, Lightning would make an enabled one; this one is put away at once.
        super().__init__("16-mixed", device, scaler=torch.amp.GradScaler(device, enabled=False))
        # With one Lightning updates by another path, on which the scaler unscales and steps.
        self.scaler = None
        self.loss_scale = LossScale()

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:  # type: ignore[override]
        """Multiply the loss by the scale."""
        # As wide as the loss, float32: 65,536 is beyond float16.
        scaled = tensor * self.loss_scale.on(tensor.device)
        return Precision.pre_backward(self, scaled, module)

    def _after_closure(self, model: LightningModule, optimizer: Any) -> None:
        """Divide the gradients before anything looks at, clips or uses them."""
        self.loss_scale.unscale(model)
        # Clipping happens in there, so unscaling must come first.
        super()._after_closure(model, optimizer)
        # The norm that clipping has just measured.
        norm: Any = model.last_grad_norm
        self.loss_scale.update(norm)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return self.loss_scale.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.loss_scale.load_state_dict(state_dict)
