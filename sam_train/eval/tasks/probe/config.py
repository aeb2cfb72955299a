"""What a person may set about `task=probe`."""

from __future__ import annotations

from dataclasses import dataclass, field

from sam_train.errors import UserError


@dataclass
class ProbeConfig:
    """Which masks are embedded, how, and what is drawn."""

    masks_per_image: int = 8
    """The largest masks of each photo are taken: each costs two runs of the image encoder."""
    margin: float = 0.1
    """Added to each side of a mask's box before it is cut out, in parts of the box's longer side
    (the paper says "around a mask")."""
    batch: int = 8
    """Crops encoded at once; bounds memory."""
    queries: int = 8
    """Rows of the picture: masks spread evenly over the data, and what is most like each."""
    neighbours: int = 7
    """Masks beside each; none of the query's own photo, and one of any other."""
    groups: str = ""
    """A CSV as of `fairness.groups`, such as the masks' categories: then it is measured how often
    the nearest masks are of the same group."""
    columns: list[str] = field(default_factory=list)
    """Columns of the CSV that are looked at; empty: all."""


def check(cfg: ProbeConfig) -> None:
    """Refuse values that no evaluation can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    for name in ("masks_per_image", "batch", "queries", "neighbours"):
        if getattr(cfg, name) < 1:
            raise UserError(f"probe.{name}={getattr(cfg, name)} must be at least 1")
    if not cfg.margin >= 0:
        raise UserError(f"probe.margin={cfg.margin} must not be negative")
