"""Trained adapters into the weights that they stand beside: a function of the state dict alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

PARTS = ("q", "k", "v")
"""The thirds of a fused layer's output, in their order."""
SCALE = "lora_scale"
"""Name of an adapter's factor beside its layer's weight."""


def down_name(part: str) -> str:
    """Name matrix A of a part; "" is the whole layer."""
    return f"lora_A_{part}" if part else "lora_A"


def up_name(part: str) -> str:
    """Name matrix B of a part; "" is the whole layer."""
    return f"lora_B_{part}" if part else "lora_B"


def join_up(ups: Mapping[str, Tensor]) -> Tensor:
    """Join the matrices B of a fused layer's parts to one of the whole layer.

    Args:
        ups: [out / 3, r] by part; a part without an adapter has rows of zeros.
    """
    first = next(iter(ups.values()))
    nothing = first.new_zeros(first.shape[0], 0)
    blocks = [ups.get(part, nothing) for part in PARTS]
    joined: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return joined


def adapted_layers(state: Mapping[str, Tensor]) -> list[str]:
    """List the layers of a state dict that have adapters."""
    ending = f".{SCALE}"
    return [name.removesuffix(ending) for name in state if name.endswith(ending)]


def merge_lora(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add each adapter to its layer's weight; what then is left is the encoder's own.

    Raises:
        ValueError: an adapter is not whole, or does not fit its layer.
    """
    merged = dict(state)
    for layer in adapted_layers(state):
        scale = merged.pop(f"{layer}.{SCALE}")
        weight = state.get(f"{layer}.weight")
        if weight is None:
            raise ValueError(f"{layer} has adapters in this file, but no weight of its own")
        rows = dict(zip(PARTS, weight.chunk(len(PARTS)), strict=False)) | {"": weight}
        for part in ("", *PARTS):
            down = merged.pop(f"{layer}.{down_name(part)}", None)
            up = merged.pop(f"{layer}.{up_name(part)}", None)
            if down is None and up is None:
                continue
            if down is None or up is None:
                raise ValueError(
                    f"{layer} has only one matrix of an adapter; the file is not whole"
                )
            rows[part] = add_product(rows[part], down, up, scale=float(scale), layer=layer)
        changed = rows.pop("")
        # Either the whole layer has an adapter or some of its parts have.
        merged[f"{layer}.weight"] = (
            changed if changed is not weight else torch.cat([*rows.values()])
        )
    return merged


def add_product(weight: Tensor, down: Tensor, up: Tensor, *, scale: float, layer: str) -> Tensor:
    """Return `weight + scale * up @ down`, summed in float64 and rounded once.

    Raises:
        ValueError: the shapes do not fit.
    """
    if (
        down.dim() != 2
        or up.shape != (weight.shape[0], down.shape[0])
        or (weight.shape[1:] != down.shape[1:])
    ):
        shapes = f"{list(up.shape)} x {list(down.shape)}"
        raise ValueError(f"{layer}: an adapter of {shapes} does not fit {list(weight.shape)}")
    total = weight.double() + scale * (up.double() @ down.double())
    # A stored half would lose most of a small update.
    return total.to(torch.promote_types(weight.dtype, torch.float32))
