"""The verb `fit`."""

from __future__ import annotations

from collections.abc import Sequence

from sam_train.settings.verbs import verb


@verb(
    summary="train: from scratch, from pretrained weights, or on from a checkpoint",
    example="python -m sam_train fit +experiment=vit_b init_from=mae:mae_pretrain_vit_base.pth",
    order=10,
)
def fit(overrides: Sequence[str]) -> None:
    """Train a model."""
    # Late: Lightning takes seconds to import, and `--help` must not.
    from sam_train.train.fit import fit as run

    run(overrides)
