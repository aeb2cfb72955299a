"""Automatic masks of whole photos: the data engine's third stage (paper §4, B)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sam_train.generate.config import GenerateConfig, MaskConfig

if TYPE_CHECKING:
    from sam_train.generate.generator import AutomaticMaskGenerator

__all__ = ["AutomaticMaskGenerator", "GenerateConfig", "MaskConfig"]


def __getattr__(name: str) -> Any:
    # Every verb reads the settings, so only the generator itself loads the compiled loops.
    if name != "AutomaticMaskGenerator":
        raise AttributeError(name)
    from sam_train.generate.generator import AutomaticMaskGenerator  # noqa: PLC0415

    return AutomaticMaskGenerator
