"""Settings of k-click scores on held-out masks, for `validate` and during `fit`."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError
from sam_train.eval.config import CLICKS, FIRST_CLICKS
from sam_train.settings.sections import check_section, setting


@dataclass
class ClickValidationConfig:
    """Measuring during training; `validate` measures all of data.val."""

    every: int = setting(5000, minimum=0)
    """Steps between measurements; 0: only before the first step and after the last."""
    images: int = setting(64, minimum=1)
    """Held-out images, the first of data.val, on all ranks together: a subset, because a large
    set would take longer than the training between."""
    clicks: list[int] = setting(list(CLICKS))
    """Numbers of clicks to report (paper D: 1, 2, 3, 5, 9)."""
    first: str = setting("centre", choices=FIRST_CLICKS)
    """The first click: centre (farthest from the boundary, paper D) or random (its variant)."""
    max_masks: int = setting(64, minimum=1)
    """Masks decoded at once; lower it where memory is short."""
    film_rows: int = setting(4, minimum=0)
    """Masks in each filmstrip; 0 draws none."""


def check_validation(cfg: ClickValidationConfig) -> None:
    """Refuse values that no run can mean.

    Raises:
        UserError: names the setting and what it may be.
    """
    if not cfg.clicks or min(cfg.clicks) < 1:
        raise UserError(f"callbacks.validation.clicks={cfg.clicks} must be numbers from 1")
    check_section(cfg, "callbacks.validation")
