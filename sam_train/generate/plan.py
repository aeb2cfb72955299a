"""The plan of an output folder: photos, units, model and settings.

The first process writes it down. Every later one, of the same job or after a stop, must mean the
same, so that no folder mixes the masks of two models, and no photo is done twice.
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
    """Fingerprint of their names, in order."""
    photos_per_unit: int
    weights: str
    """Digest of the model's weights."""
    settings: dict[str, Any]
    """Settings that the masks and files depend on."""

    @property
    def units(self) -> int:
        """Output shards."""
        return math.ceil(self.photos / self.photos_per_unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Photos `begin` to `stop` - 1 of the list: one output shard."""

    number: int
    begin: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.number:06d}"


def make_plan(
    photos: Sequence[PhotoPlace],
    *,
    samples_per_shard: int,
    parts: int,
    weights: str,
    settings: dict[str, Any],
) -> FolderPlan:
    """Make the plan of a first process, with units for each of `parts` processes."""
    return FolderPlan(
        photos=len(photos),
        photos_digest=settings_fingerprint({"names": [photo.name for photo in photos]}),
        photos_per_unit=min(samples_per_shard, math.ceil(len(photos) / parts)),
        weights=weights,
        settings=settings,
    )


def agree(folder: Path, mine: FolderPlan) -> FolderPlan:
    """Return the plan of `folder`: the one that lies there, or `mine` if nobody was faster.

    Raises:
        UserError: it is for other photos, weights or settings, or cannot be read.
    """
    path = folder / FILE_NAME
    folder.mkdir(parents=True, exist_ok=True)
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
        if there.settings.get(name) != json.loads(json.dumps(value)):
            raise _other(path, f"{name}={there.settings.get(name)}, not {value}")
    return there


def _other(path: Path, what: str) -> UserError:
    return UserError(f"{path.parent} holds masks for {what}: choose another generate.output")


def units_of(plan: FolderPlan) -> list[Unit]:
    """List the units of a plan."""
    step = plan.photos_per_unit
    return [
        Unit(number=k, begin=k * step, stop=min((k + 1) * step, plan.photos))
        for k in range(plan.units)
    ]
