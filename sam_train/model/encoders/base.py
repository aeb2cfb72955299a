"""The interface of an image encoder: the rest of the project knows nothing else of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from sam_train.model.ops.backends import kept_operations

RECOMPUTE = ("none", "selective", "full")

# Linear layers. Their results are a small part of what a block holds and most of its time.
_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}


def _selective() -> Any:
    # Asked when a unit runs: a plug-in may have registered a backend since.
    kept = _PRODUCTS | kept_operations()

    def policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        # MUST, not PREFER: a compiler may otherwise decide against it.
        return CheckpointPolicy.MUST_SAVE if op in kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


class Unit(nn.Module, ABC):
    """A stretch of an encoder that is frozen, decayed, recomputed, compiled and split as one."""

    frozen: bool = False
    """True keeps the unit in eval mode: nothing in it is trained, and it drops no path."""
    recompute: str = "none"
    """Share of what lies inside that the backward pass computes again, to save memory.

    none; selective: everything but linear layers and fused attention, which cost nearly all the
    time (half the memory of none); full: everything (only the unit's input is kept, and a third
    more is computed).
    """

    def forward(self, x: Tensor, draws: Tensor | None = None) -> Tensor:
        """Map [B, h, w, D] to the next unit's input; `draws` [B, branches] are for drop path."""
        if self.recompute == "none" or not (self.training and torch.is_grad_enabled()):
            return self.run(x, draws)
        # Inside the unit, so that compiling or splitting the unit comprises it.
        chosen: dict[str, Any] = {"context_fn": _selective} if self.recompute == "selective" else {}
        # Reentrant recomputation would need an input with a gradient, which a frozen stem does not
        # give.
        out: Tensor = checkpoint(self.run, x, draws, use_reentrant=False, **chosen)
        return out

    def train(self, mode: bool = True) -> Self:
        """Change the mode of a unit that is not frozen."""
        return super().train(mode and not self.frozen)

    @abstractmethod
    def run(self, x: Tensor, draws: Tensor | None) -> Tensor:
        """Compute `forward` without recomputation."""


class ImageEncoder(nn.Module, ABC):
    """Normalised, padded images to embeddings.

    The order of its parameters is stem, units, neck: freezing takes them from the front, and
    layer-wise decay counts them from the back. What is in none of `stem()` and `units()` belongs
    to the neck.

    Most are a `ChainedEncoder`.
    """

    in_channels: int = 3
    """Channels of the images."""
    image_size: int
    """S, side of the input in pixels."""
    stride: int
    """Pixels of the input for each cell of the embedding, along one axis."""
    channels: int
    """C of the embedding."""
    branches: int = 1
    """Residual branches of one unit, each with a draw of its own for drop path."""

    @abstractmethod
    def forward(self, images: Tensor, *, draws: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            images: float [B, in_channels, S, S].
            draws: float [B, units, branches], uniform in [0, 1), for drop path in training.

        Returns:
            [B, C, S / stride, S / stride].
        """

    @abstractmethod
    def units(self) -> Sequence[Unit]:
        """List the units, the one nearest the image first."""

    @abstractmethod
    def stem(self) -> Iterable[nn.Parameter]:
        """List the parameters in front of the first unit."""

    def position_tables(self) -> Iterable[nn.Parameter]:
        """List the parameters that stand for places, which weight decay would pull to nothing."""
        return ()

    @abstractmethod
    def numerics(self) -> str:
        """Name what decides the output and does not show in the state dict, for a fingerprint."""

    def parts(self) -> dict[str, Sequence[nn.Module]]:
        """Name the modules that `plan` counts apart, an inner one behind the one that holds it."""
        return {name: [child] for name, child in self.named_children()}


class ChainedEncoder(ImageEncoder):
    """An encoder whose units follow each other, so that the output of any of them can be kept."""

    def forward(self, images: Tensor, *, draws: Tensor | None = None) -> Tensor:
        """Run all units in their order."""
        return self.forward_from(self.before_units(images), unit=0, draws=draws)

    def forward_until(self, images: Tensor, *, unit: int) -> Tensor:
        """Compute the input of unit number `unit`, or of the neck, without drop path.

        Args:
            images: float [B, in_channels, S, S].
        """
        x = self.before_units(images)
        for one in self.units()[:unit]:
            x = one(x)
        return x

    def forward_from(self, x: Tensor, *, unit: int, draws: Tensor | None = None) -> Tensor:
        """Encode from the input of unit number `unit` on.

        Args:
            x: of `forward_until`.
            draws: as `forward` takes them, of all units.
        """
        for i, one in enumerate(self.units()):
            # Not a slice: units are numbered from the image, whichever runs first.
            if i >= unit:
                x = one(x, None if draws is None else draws[:, i])
        return self.after_units(x)

    @abstractmethod
    def before_units(self, images: Tensor) -> Tensor:
        """Map float [B, in_channels, S, S] to the first unit's input."""

    @abstractmethod
    def after_units(self, x: Tensor) -> Tensor:
        """Map the last unit's output to [B, C, S / stride, S / stride]."""


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Compute the drop path of each of `depth` units: linear from 0 to `last` (ViTDet's rule)."""
    # A single unit is the first and the last; as the first it drops nothing.
    return [last * i / max(depth - 1, 1) for i in range(depth)]
