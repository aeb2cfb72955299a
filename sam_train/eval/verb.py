"""The verbs `validate` and `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from sam_train.settings.verbs import verb


@verb(
    summary="score a checkpoint: mIoU after 1, 2, 3, 5, 9 clicks, oracle, IoU calibration",
    example="python -m sam_train validate ckpt=sam_vit_b_01ec64.pth model=vit_b data.val=[val/*.tar]",
    order=40,
)
def validate(overrides: Sequence[str]) -> None:
    """Measure a checkpoint on data.val."""
    from sam_train.eval.validate import validate as run

    run(overrides)


@verb(
    summary="the paper's measurements beside its figures: points, edges, ...; task=all",
    example="python -m sam_train evaluate task=points ckpt=sam.pth eval.datasets=[coco:/data/coco]",
    order=50,
)
def evaluate(overrides: Sequence[str]) -> None:
    """Run tasks of the paper."""
    from sam_train.eval.evaluate import evaluate as run

    run(overrides)
