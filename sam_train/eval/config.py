"""Settings that the tasks of `evaluate` share: the data sets and how much of them is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam_train.settings.sections import section, setting

CLICKS = (1, 2, 3, 5, 9)
"""Numbers of clicks at which the paper (D) and those after it report."""

FIRST_CLICKS = ("centre", "random")


@section("eval", order=70, resume="harmless")
@dataclass
class EvalConfig:
    """Data sets of `evaluate`, and how they are worked through."""

    datasets: Any = setting("", path="many")
    """Data sets with masks: `READER:PATH` or `NAME=READER:PATH`, a YAML file that lists them, or a
    list of these. docs/datasets.md has the readers and the 23 sets of the paper."""
    keep: Any = setting("", path="many")
    """finetune: masks on which the model shall lose nothing, written like `data.val`; left out: the
    sample scenes that ship."""
    masks: int | None = setting(10_000, minimum=1)
    """Masks taken of each data set, about: whole images in a fixed random order until there are so
    many (paper D.1 subsamples to about 10,000); null takes all. Fairness takes what its CSV names,
    and all of it unless another number stands here."""
    images: int | None = setting(None, minimum=1)
    """Images taken of each data set at most, in the same order; null takes all."""
    min_area: int = setting(1, minimum=1)
    """Masks of fewer pixels are left out."""
    max_masks: int = setting(64, minimum=1)
    """Prompts decoded at once; bounds memory, has no influence on the result."""
    workers: int = setting(2, minimum=1)
    """Images read ahead, in threads of their own; no influence on the result."""
    bootstrap: int = setting(1000, minimum=0)
    """Resamplings that confidence intervals are made from; 0 leaves them out."""
    confidence: float = setting(0.95, above=0, below=1)
    """Confidence of the intervals."""
