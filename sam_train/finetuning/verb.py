"""The verb `finetune`."""

from __future__ import annotations

from collections.abc import Sequence

from sam_train.settings.verbs import verb

DRY_RUN = "--dry-run"


@verb(
    summary="fine-tune on your photos: look, split, choose, train, compare; --dry-run only chooses",
    example="python -m sam_train finetune data.train=masks:mine init_from=sam_vit_b_01ec64.pth",
    order=5,
    flags=(DRY_RUN,),
)
def finetune(overrides: Sequence[str]) -> None:
    """Train a model further on one's own photos."""
    from sam_train.finetuning.run import run

    run([word for word in overrides if word != DRY_RUN], dry_run=DRY_RUN in overrides)
