"""What every task of `evaluate` shares: the data sets and how much of them is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam_train.errors import UserError


@dataclass
class EvalConfig:
    """Data sets of `evaluate`, and how they are worked through."""

    datasets: Any = ""
    """Data sets with masks: `READER:PATH` or `NAME=READER:PATH`, a YAML file that lists them, or a
    list of these. docs/datasets.md has the readers and the 23 sets of the paper."""
    masks: int | None = 10_000
    """Masks taken of each data set, about: whole images in a fixed random order until there are so
    many (paper D.1 subsamples to about 10,000); null takes all. Fairness takes what its CSV names,
    and all of it unless another number stands here."""
    images: int | None = None
    """Images taken of each data set at most, in the same order; null takes all."""
    min_area: int = 1
    """Masks of fewer pixels are left out."""
    max_masks: int = 64
    """Prompts decoded at once; bounds memory, has no influence on the result."""
    workers: int = 2
    """Images read ahead, in threads of their own; no influence on the result."""
    bootstrap: int = 1000
    """Resamplings that confidence intervals are made from; 0 leaves them out."""
    confidence: float = 0.95
    """Of the intervals."""


def check(cfg: EvalConfig) -> None:
    """Refuse values that no evaluation can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    least = {"masks": 1, "images": 1, "min_area": 1, "max_masks": 1, "workers": 1, "bootstrap": 0}
    for name, low in least.items():
        value = getattr(cfg, name)
        if value is not None and value < low:
            raise UserError(f"eval.{name}={value} must be at least {low}")
    if not 0 < cfg.confidence < 1:
        raise UserError(f"eval.confidence={cfg.confidence} must lie between 0 and 1")
