"""Settings of low-rank adapters."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.settings.sections import section, setting


@section("lora", order=155, resume="refused")
@dataclass(kw_only=True)
class LoraConfig:
    """The adapters of `optim.tune=lora` (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = setting(4, minimum=1)
    """Width between an adapter's two matrices (SAMed's)."""
    alpha: float | None = setting(None, above=0)
    """An adapter's output is multiplied by alpha / rank. Left out: by 1, which micro-sam found
    best."""
    targets: list[str] = setting(["q", "v"])
    """Layers with an adapter: q, k and v, each a third of the fused layer in a ViT; proj, mlp, or
    any part of a linear layer's name. SAMed's are q and v."""
    blocks: list[int] = setting([])
    """Encoder blocks with adapters, counted from 0. Empty: all but the first
    `optim.frozen_blocks` and those that are trained whole."""
