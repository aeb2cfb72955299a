"""The verb `export`."""

from __future__ import annotations

from collections.abc import Sequence

from sam_train.settings.verbs import verb


@verb(
    summary="write a checkpoint for safetensors, segment_anything, huggingface, onnx or annotation tools, and verify it",
    example="python -m sam_train export ckpt=runs/fit/checkpoints/last.ckpt format=onnx out=sam.onnx",
    order=70,
)
def export(overrides: Sequence[str]) -> None:
    """Write a checkpoint in another program's format."""
    from sam_train.export.run import export as run

    run(overrides)
