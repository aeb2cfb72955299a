"""The headers of one shard -> where its samples lie: pairs of `sa_N.jpg` and `sa_N.json`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sam_train.data.shards.unpacked import is_unpacked, list_folder, pair_up
from sam_train.data.storage.compressed import MAGIC, compressed
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import Facts, short_name
from sam_train.data.storage.tar import list_members
from sam_train.errors import UserError
from sam_train.runtime.text import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """Places of the n complete samples of one shard, in the order of their photos."""

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
    others: list[str] = field(default_factory=list)
    """Files that are neither a photo nor a JSON."""
    unpacked: bool = False
    """It is a folder; offsets are 0."""
    damage: str | None
    """The reason why the walk ended before the end of the tar, if it did; earlier samples are
    usable."""


def index_shard(path: str) -> ShardIndex:
    """Walk the headers of one tar, or the names of a folder; it may hold no sample at all.

    Raises:
        UserError: it is missing, cannot be read or is compressed.
    """
    try:
        source = open_source(path)
        facts = source.facts()
        if is_unpacked(path):
            return _index_folder(path, facts)
        with source.opened(facts.size) as read_at:
            # Before the walk, which would call a compressed tar damaged.
            if problem := compressed(path, read_at(0, MAGIC)):
                raise UserError(f"Shard {path}: {problem}.")
            listing = list_members(read_at, size=facts.size)
    except FileNotFoundError:
        raise UserError(f"Shard {path} does not exist; check data.train and data.val.") from None
    except OSError as error:
        # The path stands in the message already.
        problem = one_line(error).removeprefix(f"{short_name(path)}: ")
        raise UserError(f"Shard {path} cannot be read ({problem}); check access to it.") from None
    found = {m.name: m for m in listing.members}
    # A tar may hold a name twice; the last one counts, as when it is unpacked.
    pairs = pair_up([m.name for m in listing.members], last_wins=True)
    keys = pairs.keys
    return ShardIndex(
        path=path,
        size=facts.size,
        stamp=facts.stamp,
        keys=keys,
        jpegs=_spans(
            (found[pairs.jpegs[key]].offset, found[pairs.jpegs[key]].size) for key in keys
        ),
        jsons=_spans(
            (found[pairs.jsons[key]].offset, found[pairs.jsons[key]].size) for key in keys
        ),
        without_json=pairs.without_json,
        without_jpeg=pairs.without_jpeg,
        others=pairs.others,
        refused=listing.refused,
        damage=listing.damage,
    )


def _index_folder(path: str, facts: Facts) -> ShardIndex:
    pairs, sizes, refused = list_folder(path)
    keys = pairs.keys
    return ShardIndex(
        path=path,
        size=facts.size,
        stamp=facts.stamp,
        keys=keys,
        jpegs=_spans((0, sizes[pairs.jpegs[key]]) for key in keys),
        jsons=_spans((0, sizes[pairs.jsons[key]]) for key in keys),
        without_json=pairs.without_json,
        without_jpeg=pairs.without_jpeg,
        others=pairs.others,
        refused=refused,
        unpacked=True,
        damage=None,
    )


def _spans(places: Iterable[tuple[int, int]]) -> npt.NDArray[np.int64]:
    # The shape [0, 2] for a shard without samples, which numpy cannot know.
    return np.array(list(places), dtype=np.int64).reshape(-1, 2)
