"""Settings of `task=fairness`."""

from __future__ import annotations

from dataclasses import dataclass

from sam_train.errors import UserError
from sam_train.settings.sections import section, setting


@section("fairness", order=120, resume="harmless")
@dataclass
class FairnessConfig:
    """The groups of people, and the clicks on their masks."""

    groups: str = setting("", path="one")
    """A CSV with a header: a column `image` (a photo's name in its data set, with or without
    folder and ending), if need be `mask` (an annotation's id, a label's value, a mask's number in
    its shard) and `dataset`; every other column is an attribute, and each of its values a group.
    An empty cell says nothing."""
    columns: list[str] = setting([])
    """Attributes of the CSV that are looked at; empty: all."""
    points: list[int] = setting([1, 3])
    """Numbers of points that mIoU is given at; the first is a random pixel of the mask, each next
    one lies in the middle of what is wrong (paper C, D.1)."""


def check(cfg: FairnessConfig) -> None:
    """Refuse values that no evaluation can mean.

    Raises:
        UserError: names the option and what it may be.
    """
    if not cfg.groups:
        raise UserError("fairness.groups is not set: name a CSV of images, masks and their groups")
    if not cfg.points or min(cfg.points) < 1:
        raise UserError(f"fairness.points={list(cfg.points)} must be numbers from 1")
