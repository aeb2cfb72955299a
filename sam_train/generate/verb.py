"""The verb `generate`."""

from __future__ import annotations

from collections.abc import Sequence

from sam_train.settings.verbs import verb


@verb(
    summary="masks for whole photos without prompts: SA-1B shards, COCO JSON, overlays",
    example="python -m sam_train generate ckpt=sam.pth generate=sa1b generate.input=[photos/]",
    order=60,
)
def generate(overrides: Sequence[str]) -> None:
    """Write masks for whole photos."""
    from sam_train.generate.run import generate as run

    run(overrides)
