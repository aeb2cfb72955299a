"""The verb `plan`."""

from __future__ import annotations

from collections.abc import Sequence

from sam_train.settings.verbs import verb


@verb(
    summary="what a run will take, counted without a GPU: memory, FLOPs, hours, data, checkpoints",
    example="python -m sam_train plan +experiment=vit_h trainer.num_nodes=32 trainer.devices=8",
    order=30,
)
def plan(overrides: Sequence[str]) -> None:
    """Count what a run will take."""
    from sam_train.cluster.plan.run import plan as run

    run(overrides)
