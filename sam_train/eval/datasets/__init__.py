"""Photos with masks of any source for evaluation: data sets, the part taken, one photo."""

from __future__ import annotations

from sam_train.data.formats.spec import DatasetSpec, read_specs
from sam_train.eval.datasets.batch import prompt_batch, random_points
from sam_train.eval.datasets.images import EvalImage, EvalSample
from sam_train.eval.datasets.open import EvalDataset, open_datasets

__all__ = [
    "DatasetSpec",
    "EvalDataset",
    "EvalImage",
    "EvalSample",
    "open_datasets",
    "prompt_batch",
    "random_points",
    "read_specs",
]
