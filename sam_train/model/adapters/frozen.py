"""The part of an image encoder that training leaves as it is, counted from the image on."""

from __future__ import annotations

from typing import Literal

from sam_train.model.sam import Sam


def frozen_prefix(sam: Sam) -> int | Literal["all"]:
    """Count the leading units of the image encoder that are frozen together with its stem.

    What leaves such a stretch depends on the photo alone, so it may be computed once and kept.
    The caller must also see to it that no drop path is at work inside.

    Args:
        sam: a model whose trained parameters are chosen (`adapters.tune`), split or not.

    Returns:
        "all": the whole encoder is frozen, neck included. Else the number of units; 0 where the
        stem or the first unit is trained.
    """
    encoder = sam.image_encoder
    if not any(parameter.requires_grad for parameter in encoder.parameters()):
        return "all"
    if any(parameter.requires_grad for parameter in encoder.stem()):
        return 0
    count = 0
    for unit in encoder.units():
        # An adapter inside makes a unit a trained one, frozen as its own weights may be.
        if any(parameter.requires_grad for parameter in unit.parameters()):
            break
        count += 1
    return count
