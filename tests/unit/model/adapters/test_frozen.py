"""The frozen stretch of an encoder, counted from the image on."""

from __future__ import annotations

import pytest

from sam_train.model import build_sam
from sam_train.model.adapters import frozen_prefix, tune


@pytest.mark.parametrize("name", ["vit_t", "conv_t"])
@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_as_many_units_as_are_frozen_from_the_image_on(name: str, blocks: int) -> None:
    sam = build_sam(name, image_size=64)
    tune(sam, "all", frozen_blocks=blocks)
    assert frozen_prefix(sam) == blocks


def test_a_trained_unit_ends_it_whatever_follows() -> None:
    sam = build_sam("vit_t", image_size=64)
    tune(sam, "all", frozen_blocks=4)
    sam.image_encoder.units()[2].norm1.bias.requires_grad_(True)
    assert frozen_prefix(sam) == 2
    next(iter(sam.image_encoder.stem())).requires_grad_(True)
    assert frozen_prefix(sam) == 0


def test_an_encoder_without_anything_trained_is_frozen_with_its_neck() -> None:
    sam = build_sam("vit_t", image_size=64)
    tune(sam, "all", frozen_blocks=6)
    assert frozen_prefix(sam) == 6
    sam.image_encoder.neck.requires_grad_(False)
    assert frozen_prefix(sam) == "all"
