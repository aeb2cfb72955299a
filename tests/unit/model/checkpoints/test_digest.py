"""What makes records of one model those of another."""

from __future__ import annotations

import torch

from sam_train.model import Sam, build_sam
from sam_train.model.checkpoints.digest import weights_digest

SMALL: dict[str, object] = {"image_size": 64, "embed_dim": 32, "depth": 2, "global_blocks": [1]}
SMALL |= {"heads": 2, "prompt_dim": 32, "decoder_heads": 2, "decoder_mlp_dim": 64}
"""Every weight is hashed once for each weight."""


def model(**sizes: object) -> Sam:
    torch.manual_seed(0)
    return build_sam("vit_t", **(SMALL | sizes))


def test_every_weight_counts_and_nothing_else() -> None:
    one, other = model(), model()
    assert weights_digest(one) == weights_digest(other) == weights_digest(one.train())
    for name, tensor in other.state_dict().items():
        before = weights_digest(other)
        kept = tensor.clone()
        tensor.view(-1)[-1] += 1
        assert weights_digest(other) != before, name
        tensor.copy_(kept)


def test_sizes_that_no_weight_shows_count() -> None:
    plain = model(window_size=0, heads=4)
    assert sum(1 for _ in plain.state_dict()) == sum(1 for _ in model(heads=2).state_dict())
    assert weights_digest(plain) != weights_digest(model(window_size=0, heads=2))
