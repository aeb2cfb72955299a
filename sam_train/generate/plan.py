"""The plan of an output folder: its photos and units, and the model and settings behind them.

The first process writes it. Every later one, of the same job or after a stop, must have the same
plan. No folder therefore mixes the masks of two models, and no photo is done twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sam_train.errors import UserError
from sam_train.generate.inputs import PhotoPlace
from sam_train.runtime.files import create
from sam_train.runtime.fingerprint import settings_fingerprint

FILE_NAME = "plan.json"


class FolderPlan(msgspec.Struct, kw_only=True, frozen=True):
    """The content of plan.json."""

    photos: int
    photos_digest: str
    """Fingerprint of the photos' names, in order."""
    photos_per_unit: int
    weights: str
    """Fingerprint of the model's weights."""
    settings: dict[str, Any]
    """Settings that the masks and files depend on."""

    @property
    def units(self) -> int:
        """The number of output shards."""
        return math.ceil(self.photos / self.photos_per_unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """The photos of one output shard, `begin` to `stop` - 1 of the list."""

    number: int
    begin: int
    stop: int

    @property
    def name(self) -> str:
        """The name of the unit's files, without ending."""
        return f"{self.number:06d}"


def make_plan(
    photos: Sequence[PhotoPlace],
    *,
    samples_per_shard: int,
    parts: int,
    weights: str,
    settings: dict[str, Any],
) -> FolderPlan:
    """Make a first process's plan, with units so small that each of `parts` processes gets some."""
    return FolderPlan(
        photos=len(photos),
        photos_digest=settings_fingerprint({"names": [photo.name for photo in photos]}),
        photos_per_unit=min(samples_per_shard, math.ceil(len(photos) / parts)),
        weights=weights,
        settings=settings,
    )


def agree(folder: Path, mine: FolderPlan) -> FolderPlan:
    """Return the plan in `folder`; where there is none, write `mine`.

    Raises:
        UserError: it is for other photos, weights or settings, or cannot be read.
    """
    path = folder / FILE_NAME
    folder.mkdir(parents=True, exist_ok=True)
    # Fails silently where the file exists. What it holds counts, whoever wrote it.
    create(path, msgspec.json.format(msgspec.json.encode(mine), indent=1))
    try:
        there = msgspec.json.decode(path.read_bytes(), type=FolderPlan)
    except msgspec.MsgspecError as error:
        raise UserError(
            f"{path} cannot be read ({error}): choose another generate.output"
        ) from None
    if (there.photos, there.photos_digest) != (mine.photos, mine.photos_digest):
        raise _other(path, f"{there.photos} photos of other names, not these {mine.photos}")
    if there.weights != mine.weights:
        raise _other(path, "other weights")
    for name, value in mine.settings.items():
        # Through JSON, as the written plan went: tuples are lists in it.
        if there.settings.get(name) != json.loads(json.dumps(value)):
            raise _other(path, f"{name}={there.settings.get(name)}, not {value}")
    return there


def _other(path: Path, what: str) -> UserError:
    return UserError(f"{path.parent} holds masks for {what}: choose another generate.output")


def units_of(plan: FolderPlan) -> list[Unit]:
    """List all units of a plan."""
    step = plan.photos_per_unit
    return [
        Unit(number=k, begin=k * step, stop=min((k + 1) * step, plan.photos))
        for k in range(plan.units)
    ]
