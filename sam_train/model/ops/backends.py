"""Ways to compute softmax attention, by the name that `model.attention` gives them.

Legend: B windows or images, Q queries, K keys, D width of a head.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.runtime.registry import Registry

FEW_KEYS = 1024
"""Most keys for which a CPU holds all scores at once."""


class AttentionBackend(Protocol):
    """A way to compute softmax(q k^T + bias) v, with statistics in float32."""

    kept: Collection[Any]
    """Operations whose results selective recomputation keeps: slow to repeat, small to hold."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            q: [B, heads, Q, D], already scaled.
            k: [B, heads, K, D].
            v: [B, heads, K, d], d <= D.
            bias: broadcast to [B, heads, Q, K].

        Returns:
            [B, heads, Q, d].
        """
        ...

    def when(self, device: torch.device, *, keys: int) -> bool:
        """Decide if `auto` takes this backend for so many keys on `device`."""
        ...


BACKENDS: Registry[AttentionBackend] = Registry("model.attention")


@BACKENDS.register("sdpa")
class Fused:
    """torch's fused kernels, which never hold all scores."""

    kept = (
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Attend; values narrower than keys are padded for the kernels."""
        # Fused kernels want values as wide as keys; padding by nothing would copy them.
        narrow = q.shape[3] - v.shape[3]
        wide = F.pad(v, (0, narrow)) if narrow else v
        # Scale 1: queries come scaled, and their position channels must not be scaled at all.
        out = F.scaled_dot_product_attention(q, k, wide, attn_mask=bias, scale=1.0)
        return out[..., : v.shape[3]]

    def when(self, device: torch.device, *, keys: int) -> bool:
        """Take everything that no later backend asks for."""
        return True


@BACKENDS.register("math")
class Math:
    """Two products with a softmax between them, all scores in memory at once.

    The same operations on every device, for a reference and for devices without fused kernels.
    """

    # Its products are K / D times as large as what the fused kernels leave behind.
    kept = ()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Attend; softmax kernels add up in float32 whatever the scores' dtype."""
        scores = q @ k.transpose(2, 3)
        return (scores if bias is None else scores + bias).softmax(dim=3).to(v.dtype) @ v

    def when(self, device: torch.device, *, keys: int) -> bool:
        """Take few keys on a CPU.

        There plain products are as fast as a fused kernel in float32 and several times faster in
        bfloat16.
        """
        return device.type == "cpu" and keys <= FEW_KEYS


@BACKENDS.register("auto")
class Auto:
    """The latest registered backend that suits the device and the number of keys."""

    kept = ()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
        """Attend with the backend that asks for these keys."""
        keys = k.shape[2]
        # The latest first, so that a plug-in's backend is asked before ours.
        for _, backend in reversed(list(BACKENDS.items())):
            if backend.when(q.device, keys=keys):
                return backend(q, k, v, bias=bias)
        raise AssertionError("sdpa takes everything")

    def when(self, device: torch.device, *, keys: int) -> bool:
        """Refuse: `auto` must not choose itself."""
        return False


class AttentionLayer(nn.Module):
    """Base of the layers with softmax attention, whose backend `use_backend` sets."""

    backend: AttentionBackend = BACKENDS["auto"]


def use_backend(model: nn.Module, name: str) -> None:
    """Let all attention layers of `model` compute by the backend that `name` means.

    Raises:
        UserError: unknown name.
    """
    backend = BACKENDS[name]
    for layer in model.modules():
        if isinstance(layer, AttentionLayer):
            layer.backend = backend


def kept_operations() -> set[Any]:
    """Collect what all backends want selective recomputation to keep."""
    return {operation for _, backend in BACKENDS.items() for operation in backend.kept}
