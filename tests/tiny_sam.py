"""A SAM of a few thousand numbers, for tests of files."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor

from sam_train.model.load import build_sam
from sam_train.model.sam import Sam

TINY: dict[str, Any] = {"embed_dim": 16, "depth": 2, "heads": 2, "global_blocks": [1]}
TINY |= {"prompt_dim": 16, "decoder_heads": 2, "decoder_mlp_dim": 16, "window_size": 2}


def tiny(**overrides: Any) -> Sam:
    if overrides:
        return build_sam("vit_b", **({"image_size": 64} | TINY | overrides))
    return copy.deepcopy(_template())


@functools.cache
def _template() -> Sam:
    """Build it once: drawing initial values takes longer than all that is tested."""
    return build_sam("vit_b", image_size=64, **TINY)


def randomised(*, seed: int = 1, **overrides: Any) -> Sam:
    sam = tiny(**overrides)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in sam.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return sam


def copy_of(sam: Sam) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in sam.state_dict().items()}


def changed(before: dict[str, Tensor], sam: Sam) -> set[str]:
    return {n for n, t in sam.state_dict().items() if not torch.equal(before[n], t)}


def part(state: dict[str, Tensor], *modules: str) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if name.split(".")[0] in modules}
