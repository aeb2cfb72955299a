"""Settings of `task=points`."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError
from sam_train.eval.config import CLICKS, FIRST_CLICKS
from sam_train.settings.sections import check_section, section, setting


@section("points", order=80, resume="harmless")
@dataclass
class PointsConfig:
    """The clicks on the masks."""

    clicks: list[int] = setting(list(CLICKS))
    """Numbers of clicks that mIoU is given at (paper §7.1)."""
    first: list[str] = setting(list(FIRST_CLICKS))
    """First clicks: centre (farthest from the mask's boundary), random (uniform in the mask), or
    both, one evaluation after the other on the same embedding."""
    noc: list[int] = setting([85, 90])
    """IoU in percent to count clicks up to (NoC@85, NoC@90: what interactive segmentation
    reports)."""
    noc_clicks: int = setting(20, minimum=1)
    """The end of that count: a mask never that good counts as this many (the field's 20). Masks
    that reached the highest IoU are clicked no further than `clicks` asks."""
    film_rows: int = setting(6, minimum=0)
    """Masks in each filmstrip, of typical and of worst cases; 0 draws none."""


def check(cfg: PointsConfig) -> None:
    """Refuse values that no evaluation can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    if not cfg.clicks or min(cfg.clicks) < 1:
        raise UserError(f"points.clicks={list(cfg.clicks)} must be numbers from 1")
    if not cfg.first or (unknown := set(cfg.first) - set(FIRST_CLICKS)):
        what = f"{sorted(unknown)[0]} is not one" if cfg.first else "is empty"
        raise UserError(
            f"points.first={list(cfg.first)}: {what}; use {', '.join(FIRST_CLICKS)} or both"
        )
    if any(not 0 < percent <= 100 for percent in cfg.noc):
        raise UserError(f"points.noc={list(cfg.noc)} must be percentages of IoU")
    check_section(cfg)
