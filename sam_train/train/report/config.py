"""What can be set of what a person sees of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from sam_train.errors import UserError
from sam_train.eval.clicks.interactive import CLICKS, FIRST_CLICKS


@dataclass
class ClickValidationConfig:
    """Measuring during training; `validate` measures all of data.val."""

    every: int = 5000
    """Steps between measurements; 0: only before the first step and after the last."""
    images: int = 64
    """Held-out images, the first of data.val, on all ranks together: a subset, because a large
    set would take longer than the training between."""
    clicks: list[int] = field(default_factory=lambda: list(CLICKS))
    """Numbers of clicks to report (paper D: 1, 2, 3, 5, 9)."""
    first: str = "centre"
    """The first click: centre (farthest from the boundary, paper D) or random (its variant)."""
    max_masks: int = 64
    """Masks decoded at once; lower it where memory is short."""
    film_rows: int = 4
    """Masks in each filmstrip; 0 draws none."""


def check_validation(cfg: ClickValidationConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    if not cfg.clicks or min(cfg.clicks) < 1:
        raise UserError(f"callbacks.validation.clicks={cfg.clicks} must be numbers from 1")
    if cfg.first not in FIRST_CLICKS:
        raise UserError(
            f"callbacks.validation.first={cfg.first}: use one of {', '.join(FIRST_CLICKS)}"
        )
    for name, least in {"images": 1, "max_masks": 1, "every": 0, "film_rows": 0}.items():
        if getattr(cfg, name) < least:
            raise UserError(
                f"callbacks.validation.{name}={getattr(cfg, name)} must be at least {least}"
            )


@dataclass
class EvaluationConfig:
    """The paper's measurements during training; `eval.datasets` and each task's own settings say
    what is measured and how."""

    every: int = 0
    """Steps between measurements, also before the first and behind the last; 0: never."""
    tasks: list[str] = field(default_factory=lambda: ["points"])
    """As `task` of `evaluate`. Of points only the games with a centred first click, and no NoC,
    which takes twice as many clicks as all else."""
    images: int = 32
    """Of each data set, the same at each measurement and in every run."""
    masks: int = 500
    """Of each data set, about; the tighter of the two bounds counts."""


@dataclass
class ProgressConfig:
    """How training shows that it advances."""

    bar: bool = True
    """A live bar where the output is a terminal; without one, lines as in a file."""
    line_seconds: float = 30.0
    """Seconds between lines where the output is not a terminal: batch systems keep every line."""


@dataclass
class CallbacksConfig:
    """Everything that watches a run; nothing here changes what is learnt."""

    validation: ClickValidationConfig = field(default_factory=ClickValidationConfig)
    """k-click scores, filmstrips and curves."""
    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Tasks of `evaluate` on a few images, and their trend."""
    progress: ProgressConfig = field(default_factory=ProgressConfig)
    """The bar, or lines where there is no terminal."""
