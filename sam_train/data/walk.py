"""The headers of one shard -> where its samples lie: pairs of `sa_N.jpg` and `sa_N.json`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sam_train.data.sources import one_line, open_source, short_name
from sam_train.data.tar import list_members
from sam_train.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """Where the n complete samples of one shard lie, in the order of their photos."""

    path: str
    size: int
    """Bytes of the shard."""
    stamp: str
    """Changes when the shard does, see `sources.Facts`."""
    keys: list[str]
    """n member names without extension and without a leading `./`."""
    jpegs: npt.NDArray[np.int64]
    """[n, 2] offset and size in bytes."""
    jsons: npt.NDArray[np.int64]
    """[n, 2] offset and size in bytes."""
    without_json: list[str]
    """Photos that were left out because no JSON has their name."""
    without_jpeg: list[str]
    """JSONs that were left out because no photo has their name."""
    refused: list[str] = field(default_factory=list)
    """Links, devices and names that point out of the archive: never read."""
    damage: str | None
    """Why the walk ended before the end of the tar, if it did; what came before is usable."""


def index_shard(path: str) -> ShardIndex:
    """Walk the headers of one tar; it may turn out to hold no sample at all.

    Raises:
        UserError: it is missing or cannot be read.
    """
    try:
        source = open_source(path)
        facts = source.facts()
        with source.opened(facts.size) as read_at:
            listing = list_members(read_at, size=facts.size)
    except FileNotFoundError:
        raise UserError(f"Shard {path} does not exist; check data.train and data.val.") from None
    except OSError as error:
        problem = one_line(error).removeprefix(f"{short_name(path)}: ")
        raise UserError(f"Shard {path} cannot be read ({problem}); check access to it.") from None
    found = {m.name.removeprefix("./"): m for m in listing.members}
    jpegs = {n.removesuffix(".jpg"): m for n, m in found.items() if n.endswith(".jpg")}
    jsons = {n.removesuffix(".json"): m for n, m in found.items() if n.endswith(".json")}
    keys = [key for key in jpegs if key in jsons]
    return ShardIndex(
        path=path,
        size=facts.size,
        stamp=facts.stamp,
        keys=keys,
        jpegs=np.array(
            [(jpegs[key].offset, jpegs[key].size) for key in keys], dtype=np.int64
        ).reshape(-1, 2),
        jsons=np.array(
            [(jsons[key].offset, jsons[key].size) for key in keys], dtype=np.int64
        ).reshape(-1, 2),
        without_json=[jpegs[key].name for key in jpegs if key not in jsons],
        without_jpeg=[jsons[key].name for key in jsons if key not in jpegs],
        refused=listing.refused,
        damage=listing.damage,
    )
