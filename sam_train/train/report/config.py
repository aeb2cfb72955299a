"""Settings of the reports that a person sees of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sam_train.eval.clicks.config import ClickValidationConfig, check_validation
from sam_train.settings.sections import run_check, section, setting

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig


@dataclass
class EvaluationConfig:
    """The paper's measurements during training; `eval.datasets` and each task's own settings say
    what is measured and how."""

    every: int = 0
    """Steps between measurements, also before the first and behind the last; 0: never."""
    tasks: list[str] = setting(["points"])
    """Tasks of `evaluate`, as its `task`. Points runs only with a centred first click, and without
    NoC, which takes twice as many clicks as all else."""
    images: int = 32
    """Images of each data set, the same at each measurement and in every run."""
    masks: int = 500
    """Masks of each data set, about; the tighter of the two bounds counts."""


@dataclass
class ProgressConfig:
    """The signs that training advances."""

    bar: bool = True
    """A live bar where the output is a terminal; without one, lines as in a file."""
    line_seconds: float = 30.0
    """Seconds between lines where the output is not a terminal: batch systems keep every line."""


@section("callbacks", order=210, resume="harmless")
@dataclass
class CallbacksConfig:
    """Everything that watches a run; nothing here changes what is learnt."""

    validation: ClickValidationConfig = field(default_factory=ClickValidationConfig)
    """k-click scores, filmstrips and curves."""
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Tasks of `evaluate` on a few images, and their trend."""
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    """The bar, or lines where there is no terminal."""


@run_check
def _check_run(cfg: RunConfig) -> None:
    check_validation(cfg.callbacks.validation)
