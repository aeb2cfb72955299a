"""What a person may set about `task=points`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sam_train.errors import UserError

FIRST = ("centre", "random")


@dataclass
class PointsConfig:
    """How masks are clicked."""

    clicks: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 9])
    """Numbers of clicks that mIoU is given at (paper §7.1)."""
    first: list[str] = field(default_factory=lambda: list(FIRST))
    """First clicks: centre (farthest from the mask's boundary), random (uniform in the mask), or
    both, one game after the other on the same embedding."""
    noc: list[int] = field(default_factory=lambda: [85, 90])
    """IoU in percent to count clicks up to (NoC@85, NoC@90: what interactive segmentation
    reports)."""
    noc_clicks: int = 20
    """Where that count ends: a mask never that good counts as this many (the field's 20). Masks
    that reached the highest IoU are clicked no further than `clicks` asks."""
    film_rows: int = 6
    """Masks in each filmstrip, of typical and of worst cases; 0 draws none."""


def check(cfg: PointsConfig) -> None:
    """Refuse values that no evaluation can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    if not cfg.clicks or min(cfg.clicks) < 1:
        raise UserError(f"points.clicks={list(cfg.clicks)} must be numbers from 1")
    if not cfg.first or (unknown := set(cfg.first) - set(FIRST)):
        what = f"{sorted(unknown)[0]} is not one" if cfg.first else "is empty"
        raise UserError(f"points.first={list(cfg.first)}: {what}; use {', '.join(FIRST)} or both")
    if any(not 0 < percent <= 100 for percent in cfg.noc):
        raise UserError(f"points.noc={list(cfg.noc)} must be percentages of IoU")
    if cfg.noc_clicks < 1 or cfg.film_rows < 0:
        raise UserError("points.noc_clicks must be at least 1 and points.film_rows at least 0")
