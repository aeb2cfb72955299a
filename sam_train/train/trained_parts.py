"""The parts of the model that a run trains, in a line for people."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sam_train.model import Sam
from sam_train.model.adapters import frozen_prefix
from sam_train.train.optim import moments_of, roles_of
from sam_train.train.optim_config import OptimConfig

_FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedParts:
    """Numbers of parameters, and the bytes that training adds to them."""

    parts: dict[str, tuple[int, int]]
    """Trained parameters and all of them, by part of the model."""
    optimizer_bytes: int
    """The optimizer's state, of all ranks together where it is split."""
    gradient_bytes: int
    frozen: str
    """The frozen stretch of the encoder in words."""

    def __str__(self) -> str:
        """Write one line."""
        parts = ", ".join(
            f"{name} {_count(trained)} of {_count(total)}"
            for name, (trained, total) in self.parts.items()
        )
        return (
            f"trained parameters: {parts}; frozen: {self.frozen}; optimizer state about "
            f"{_megabytes(self.optimizer_bytes)}, gradients {_megabytes(self.gradient_bytes)}"
        )


def trained_parts(sam: Sam, *, cfg: OptimConfig) -> TrainedParts:
    """Count what is trained of a model whose weights are not split yet."""
    modules: dict[str, nn.Module] = {
        "image encoder": sam.image_encoder,
        "prompt encoder": sam.prompt_encoder,
        "mask decoder": sam.mask_decoder,
    }
    roles = roles_of(sam)
    trained = {name: p.numel() for name, p in sam.named_parameters() if p.requires_grad}
    kept = sum(count * moments_of(roles[name], cfg=cfg) for name, count in trained.items())
    # The average of `optim.ema` is one more number for each.
    kept += sum(trained.values()) if cfg.ema else 0
    return TrainedParts(
        parts={
            name: (
                sum(p.numel() for p in module.parameters() if p.requires_grad),
                sum(p.numel() for p in module.parameters()),
            )
            for name, module in modules.items()
        },
        optimizer_bytes=_FLOAT * kept,
        gradient_bytes=_FLOAT * sum(trained.values()),
        frozen=_frozen(sam),
    )


def _frozen(sam: Sam) -> str:
    """Describe what of the encoder is frozen, counted from the image on."""
    prefix, units = frozen_prefix(sam), len(sam.image_encoder.units())
    if prefix == "all":
        return "the whole image encoder"
    if prefix:
        return f"the stem and the first {prefix} of {units} blocks"
    if all(parameter.requires_grad for parameter in sam.image_encoder.parameters()):
        return "nothing"
    return "weights in all blocks of the image encoder, which gradients still cross"


def _count(number: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _megabytes(number: int) -> str:
    return f"{number / 1e6:.1f} MB"
