"""Train, fine-tune and measure the Segment Anything Model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam_train.finetuning.run import finetune as finetune

__all__ = ["finetune"]


def __getattr__(name: str) -> Any:
    """Load `finetune` when it is asked for: its libraries take seconds to import."""
    if name == "finetune":
        from sam_train.finetuning.run import finetune  # noqa: PLC0415

        return finetune
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
