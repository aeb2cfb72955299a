"""`optim.tune=lora`: low-rank adapters beside frozen linear layers of the image encoder.

After Hu et al. 2021 (arXiv 2106.09685), in SAMed's places (arXiv 2304.13785). A layer's output
grows by `scale * B A x`: A is drawn as a linear layer's weights are, B begins at zero, so training
begins at the layer as it was. Gradients still cross the whole encoder; spared are the gradients
and the optimizer's state of its weights. `merge.py` puts trained adapters into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam_train.errors import UserError
from sam_train.model.adapters.base import TUNINGS, Extent, Tuning
from sam_train.model.adapters.merge import PARTS, down_name, join_up, up_name
from sam_train.model.encoders.base import ImageEncoder, Unit
from sam_train.model.lora_config import LoraConfig
from sam_train.model.ops.layers import Projection

_FUSED = "qkv"
"""The name of a layer whose output is q, k and v, one after the other."""


class LoraLinear(Projection):
    """A frozen linear layer and its adapters.

    Args:
        base: the layer, whose tensors are taken over under their names.
        rank: width between A and B.
        scale: factor of an adapter's output.
        parts: the thirds of the output that have an adapter each; empty for one over all of it.
    """

    lora_scale: Tensor

    def __init__(self, base: nn.Linear, *, rank: int, scale: float, parts: tuple[str, ...]) -> None:
        # Not Linear's own, which would draw weights only to have them replaced.
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight = base.weight
        self.register_parameter("bias", base.bias)
        self.parts = parts
        rows = base.out_features // len(PARTS) if parts else base.out_features
        for part in parts or ("",):
            # Like the weight in dtype and device, which may be meta.
            down = nn.Parameter(base.weight.detach().new_empty(rank, base.in_features))
            # As nn.Linear draws its own: Kaiming's, uniform (the paper's code and peft's).
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            self.register_parameter(down_name(part), down)
            up = nn.Parameter(base.weight.detach().new_zeros(rows, rank))
            self.register_parameter(up_name(part), up)
        # A buffer: a checkpoint can then be merged by anyone who has its tensors alone.
        self.register_buffer("lora_scale", base.weight.detach().new_full((), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        return F.linear(x, self.weight, self.bias) + self._update(x)

    def product(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out] without the bias."""
        return F.linear(x, self.weight) + self._update(x)

    def _update(self, x: Tensor) -> Tensor:
        # On the narrow side, where scaling costs next to nothing.
        return F.linear(F.linear(x, self._down()) * self.lora_scale, self._up())

    def _down(self) -> Tensor:
        return torch.cat([self.get_parameter(down_name(part)) for part in self.parts or ("",)])

    def _up(self) -> Tensor:
        if not self.parts:
            return self.get_parameter(up_name(""))
        # All adapters of a layer are one product.
        return join_up({part: self.get_parameter(up_name(part)) for part in self.parts})


@TUNINGS.register("lora")
class Lora(Tuning):
    """Train adapters beside the layers that `lora.targets` names."""

    adds = True

    def apply(self, encoder: ImageEncoder, extent: Extent) -> None:
        """Put an adapter beside each target.

        Raises:
            UserError: `lora.blocks` or `lora.targets` name what the encoder does not have.
        """
        cfg, units = extent.lora, encoder.units()
        chosen = _blocks(units, extent)
        known: set[str] = set()
        found: set[str] = set()
        for unit in (units[number] for number in chosen):
            linears = [(n, m) for n, m in unit.named_modules() if isinstance(m, nn.Linear)]
            for name, layer in linears:
                words = set(name.split("."))
                whole = words & set(cfg.targets)
                # Thirds only where the layer as a whole was not asked for.
                parts = () if whole or _FUSED not in words else _parts(cfg)
                known |= words | (set(PARTS) if _FUSED in words else set())
                found |= whole | set(parts)
                if whole or parts:
                    _adapt(unit, name, layer, cfg=cfg, parts=parts)
        if missing := [target for target in cfg.targets if target not in found]:
            layers = ", ".join(sorted(known)) or "no linear layer at all"
            raise UserError(
                f"lora.targets={cfg.targets}: the encoder's blocks have no {missing[0]}; they "
                f"have {layers}"
            )
        if not found:
            raise UserError("lora.targets is empty: name layers, such as [q,v]")


def _blocks(units: Sequence[Unit], extent: Extent) -> list[int]:
    """Choose the units with adapters."""
    # `last_blocks` has opened its units by now; beside a trained matrix an adapter adds nothing.
    free = [
        number
        for number, unit in enumerate(units)
        if number >= extent.frozen_blocks and not all(p.requires_grad for p in unit.parameters())
    ]
    asked = extent.lora.blocks or free
    if wrong := [number for number in asked if number not in free]:
        raise UserError(
            f"lora.blocks={extent.lora.blocks}: block {wrong[0]} takes no adapter; of the "
            f"encoder's {len(units)}, counted from 0, those that are neither in "
            f"optim.frozen_blocks nor trained whole are {free}"
        )
    if not asked:
        raise UserError(
            f"optim.tune: lora has no block left of the encoder's {len(units)}; lower "
            "optim.frozen_blocks or optim.last_blocks, or leave lora out"
        )
    return sorted(set(asked))


def _parts(cfg: LoraConfig) -> tuple[str, ...]:
    return tuple(part for part in PARTS if part in cfg.targets)


def _adapt(
    unit: Unit, name: str, layer: nn.Linear, *, cfg: LoraConfig, parts: tuple[str, ...]
) -> None:
    """Replace a layer by itself with adapters beside it."""
    scale = 1.0 if cfg.alpha is None else cfg.alpha / cfg.rank
    holder, _, last = name.rpartition(".")
    adapted = LoraLinear(layer, rank=cfg.rank, scale=scale, parts=parts)
    setattr(unit.get_submodule(holder), last, adapted)
