"""The part of an image encoder that is frozen, from the image on, and its fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sam_train.model.adapters import frozen_prefix
from sam_train.model.encoders.base import ChainedEncoder, ImageEncoder
from sam_train.model.sam import Sam


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPart:
    """The stem and the first `units` units of an encoder, or all of it."""

    units: int
    whole: bool
    """The neck is frozen as well: the output is the embedding."""

    def run(self, encoder: ImageEncoder, images: Tensor) -> Tensor:
        """Compute the output of the frozen part; no path is dropped in it."""
        if self.whole:
            out: Tensor = encoder(images)
            return out
        assert isinstance(encoder, ChainedEncoder)
        return encoder.forward_until(images, unit=self.units)

    def rest(self, encoder: ImageEncoder, x: Tensor, *, draws: Tensor | None) -> Tensor:
        """Compute the embedding from the output of the frozen part."""
        if self.whole:
            return x
        assert isinstance(encoder, ChainedEncoder)
        return encoder.forward_from(x, unit=self.units, draws=draws)

    def fingerprint(self, encoder: ImageEncoder) -> bytes:
        """Hash all that decides the output for given pixels: weights, sizes and numerics."""
        about = f"{encoder.image_size} {encoder.numerics()} {self.units} {self.whole}\n"
        digest = hashlib.blake2b(about.encode(), digest_size=16)
        behind = set() if self.whole else {id(t) for t in _behind(encoder, self.units)}
        for name, tensor in sorted(encoder.state_dict(keep_vars=True).items()):
            if id(tensor) in behind:
                continue
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            # One tensor at a time: a GPU's encoder need not fit in host memory twice.
            flat = tensor.detach().cpu().contiguous().flatten()
            if flat.numel():
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.digest()


def frozen_part(sam: Sam) -> FrozenPart | None:
    """Return the frozen part; None where training begins early, or nobody can cut the encoder.

    It has at least the stem and one unit: the stem alone costs next to nothing.
    """
    units = frozen_prefix(sam)
    if units == "all":
        return FrozenPart(units=len(sam.image_encoder.units()), whole=True)
    cut = units and isinstance(sam.image_encoder, ChainedEncoder)
    return FrozenPart(units=units, whole=False) if cut else None


def keep_frozen(sam: Sam) -> None:
    """Keep the units of the frozen part in eval mode, in which they drop no path.

    Drop path regularises what is learnt in a unit. In a frozen one it would be noise on fixed
    features, and their outputs could not be kept.
    """
    frozen = frozen_prefix(sam)
    for number, unit in enumerate(sam.image_encoder.units()):
        unit.frozen = frozen == "all" or number < frozen
        unit.train(unit.training)


def _behind(encoder: ImageEncoder, units: int) -> list[Tensor]:
    """List the tensors of later units, and those of the neck: in neither stem nor units."""
    later: list[nn.Module] = list(encoder.units()[units:])
    tensors = [t for unit in later for t in unit.state_dict(keep_vars=True).values()]
    known = {id(p) for p in encoder.stem()}
    known |= {id(p) for unit in encoder.units() for p in unit.parameters()}
    # Buffers stay in: nothing says which part of the encoder reads them.
    return tensors + [p for p in encoder.parameters() if id(p) not in known]
