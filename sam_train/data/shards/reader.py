"""Samples by their number: pairs of `sa_N.jpg` and `sa_N.json` in tars, read where they lie.

Nothing is extracted. An index says where each sample lies, see `index`; where there is none, the
headers are walked. A sample is then one ranged read.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_train.data.shards.exclude import Exclusions, read_exclusions
from sam_train.data.shards.fingerprint import Fingerprint, digest
from sam_train.data.shards.index import (
    FILE_NAME,
    Index,
    ShardPart,
    ShardRow,
    build_index,
    compact,
    open_index,
)
from sam_train.data.shards.part import Entry, IndexedShard, SamplePlace
from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.walk import index_shard
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import Facts, is_remote, short_name
from sam_train.data.tiles.grid import TileGrid
from sam_train.errors import UserError

log = logging.getLogger(__name__)

_WALKERS = 8
_ADVICE = "`python -m data_tools.index`"
_WORTH_AN_INDEX = 10_000
"""Samples."""


class Shards:
    """Samples 0 .. N - 1 of several shards, in shard order, without those that are excluded.

    Picklable; holds no open file.
    """

    def __init__(
        self, parts: Sequence[IndexedShard], *, exclusions: Exclusions | None = None
    ) -> None:
        self._parts = list(parts)
        self._all_first = np.cumsum([0, *(p.row.samples for p in self._parts)], dtype=np.int64)
        lists = [
            exclusions.rows(p.path, p.index, p.shard) + first
            for p, first in zip(self._parts, self._all_first[:-1], strict=True)
            if exclusions
        ]
        excluded = np.concatenate([np.empty(0, np.int64), *lists])
        # Half as wide: data.include=1 % of SA-1B leaves out 11 M, in every process.
        self._kept_before = (excluded - np.arange(len(excluded))).astype(np.uint32)
        self.first: npt.NDArray[np.int64] = self._all_first - np.searchsorted(
            excluded, self._all_first
        )
        """int64 [P + 1]: shard s owns the samples first[s] .. first[s + 1] - 1."""

    def __len__(self) -> int:
        return int(self.first[-1])

    @property
    def excluded(self) -> npt.NDArray[np.int64]:
        """Rising places of the excluded samples among all of them."""
        return self._kept_before + np.arange(len(self._kept_before), dtype=np.int64)

    @property
    def paths(self) -> list[str]:
        """Paths of the P shards."""
        return [part.path for part in self._parts]

    @property
    def parts(self) -> list[IndexedShard]:
        """The P shards."""
        return self._parts

    @property
    def rows(self) -> list[ShardRow]:
        """Damage and leftovers of each of the P shards."""
        return [part.row for part in self._parts]

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of what the order of samples follows from."""
        ends = [key for part in self._parts for key in part.ends]
        return Fingerprint(
            shards=len(self._parts),
            samples=len(self),
            digest=digest([self._all_first.data, self._kept_before.data, "\n".join(ends).encode()]),
        )

    def key(self, sample: int) -> str:
        """Return a sample's name for messages: `shard.tar/sa_12`."""
        shard, row = self._locate(sample)
        part = self._parts[shard]
        return f"{short_name(part.path)}/{part.index.key(part.shard, row)}"

    def read(self, sample: int) -> Entry:
        """Read one sample, in one read where its files are neighbours in a tar.

        Raises:
            OSError: the shard vanished, is shorter than it was, holds something else there, or a
                file is absurdly large.
            BadSample: the photo of a data set, or all of its masks, cannot be used.
        """
        shard, row = self._locate(sample)
        return self._parts[shard].read(row)

    def stamp(self, sample: int) -> bytes | None:
        """Return what a sample's content follows from, as `IndexedShard.stamp` does."""
        shard, row = self._locate(sample)
        return self._parts[shard].stamp(row)

    def group(self, sample: int) -> str | None:
        """Return the scene, stack or case that a sample is a part of; None: it stands alone."""
        shard, row = self._locate(sample)
        part = self._parts[shard]
        group = part.group(row)
        return None if group is None else f"{short_name(part.path)}/{group}"

    def place(self, sample: int) -> SamplePlace:
        """Return where a sample lies.

        Raises:
            OSError: the index is damaged there.
        """
        shard, row = self._locate(sample)
        return self._parts[shard].place(row)

    def _locate(self, sample: int) -> tuple[int, int]:
        if not 0 <= sample < len(self):
            raise IndexError(sample)
        # Of the array's own type: numpy would otherwise convert the whole array.
        before = np.searchsorted(self._kept_before, np.uint32(sample), side="right")
        place = sample + int(before)
        shard = int(np.searchsorted(self._all_first, place, side="right")) - 1
        return shard, place - int(self._all_first[shard])


def open_shards(
    patterns: Any,
    *,
    option: str,
    index: str | Path | None = None,
    exclude: str | Sequence[str] | None = None,
    include: str | Sequence[str] | None = None,
    formats: bool = False,
    tiles: TileGrid | None = None,
) -> Shards:
    """Resolve and index; leftovers and damage of a shard are warned about, one line each.

    Args:
        patterns: one or several, as `resolve` takes them.
        option: the setting that the patterns come from (`data.train`).
        index: an index file; without it, `sa_index.bin` beside the shards is taken where it is.
        exclude: lists of samples to leave out, see `exclude`.
        include: lists of the only samples to take.
        formats: whether data sets of any format, as `eval.datasets` has them, may stand among the
            patterns; their samples follow those of the shards.
        tiles: cuts the photos of data sets, not those of shards.

    Raises:
        UserError: see `resolve`, `index_shard`, `open_index` and `open_format`; or no sample is
            left.
    """
    patterns, found = (
        _without_formats(patterns, option=option, tiles=tiles) if formats else (patterns, [])
    )
    paths = resolve(patterns, option=option) if patterns or not found else []
    exclusions = read_exclusions(exclude, include=include)
    known = _known(paths, index=index)
    walked = _walk([path for path in paths if path not in known], option=option)
    parts = [*(known.get(path) or walked[path] for path in paths), *found]
    shards = Shards(parts, exclusions=exclusions)
    if not any(row.samples for row in shards.rows):
        others = f" (and none of the {len(parts) - 1} others does)" if parts[1:] else ""
        problem = no_samples(parts[0].path, parts[0].row)
        raise UserError(f"{problem}{others}; get it again or leave it out.")
    if not len(shards):
        what = "data.include and data.exclude leave" if include else "data.exclude leaves"
        raise UserError(f"{option}: {what} out every sample.")
    for part in parts:
        _warn(part)
    if exclusions:
        by = "data.include and data.exclude" if include else "data.exclude"
        log.info("%s: %d samples excluded by %s", option, len(shards.excluded), by)
    return shards


def _without_formats(
    patterns: Any, *, option: str, tiles: TileGrid | None
) -> tuple[list[str], list[IndexedShard]]:
    """Return the patterns of shards, and the data sets among them, opened."""
    # Here, for the start of runs on shards: readers of formats import those of all photos.
    from sam_train.data.formats.source import open_format  # noqa: PLC0415
    from sam_train.data.formats.spec import split_entries  # noqa: PLC0415

    shards, specs = split_entries(patterns, setting=option)
    if tiles is None:
        return shards, [open_format(spec) for spec in specs]
    if shards:
        raise UserError(
            f"data.tile cuts data sets of other formats, and {option} names shards ({shards[0]}): "
            "python -m data_tools.tile writes shards of tiles"
        )
    from sam_train.data.formats.tiled import open_tiled  # noqa: PLC0415

    return shards, [open_tiled(spec, tiles) for spec in specs]


def indexed(paths: Sequence[str]) -> dict[str, ShardPart]:
    """Return the parts of indexes beside shards that still say what the shards are.

    Raises:
        UserError: such an index is damaged.
    """
    return {path: part.index.part(part.shard) for path, part in _known(paths, index=None).items()}


def _known(paths: Sequence[str], *, index: str | Path | None) -> dict[str, IndexedShard]:
    """Return the shards that an index knows as they are now."""
    if index is not None and str(index):
        files = [Path(str(index)).expanduser()]
    else:
        folders = {Path(path).parent for path in paths if not is_remote(path)}
        files = sorted(f / FILE_NAME for f in folders if (f / FILE_NAME).is_file())
    known: dict[str, IndexedShard] = {}
    for file in files:
        opened = open_index(file)
        places = _places(opened, folder=file.parent)
        for path in paths:
            shard = places.get(_place(path), places.get(short_name(path)))
            if shard is None:
                continue
            part = IndexedShard(path=path, index=opened, shard=shard)
            if _is_current(part):
                known[path] = part
    return known


def _places(index: Index, *, folder: Path) -> dict[str, int]:
    """Return the number of each shard, by its full path and by its name alone where that is unique.
    A dataset may be mounted elsewhere than where it was indexed."""
    names = [short_name(row.name) for row in index.rows]
    once = {name for name, times in Counter(names).items() if times == 1}
    places = {name: shard for shard, name in enumerate(names) if name in once}
    for shard, row in enumerate(index.rows):
        places[row.name if is_remote(row.name) else _place(str(folder / row.name))] = shard
    return places


def _place(path: str) -> str:
    return path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100 - links stay links


def _is_current(part: IndexedShard) -> bool:
    """Tell whether an index still fits a shard; a remote one is compared when it is read."""
    if is_remote(part.path):
        return True
    row = part.row
    try:
        facts = open_source(part.path).facts()
        if facts == Facts(row.size, row.stamp):
            return True
        # Copies of a dataset have other times. If the last sample is in its place, so are all.
        if facts.size == row.size and row.samples:
            part.place(row.samples - 1).read()
            return True
    except FileNotFoundError:
        return False  # the walk says so
    except OSError as error:
        log.debug("%s: %s", part.path, error)
    log.warning("%s changed since it was indexed; make the index again: %s", part.path, _ADVICE)
    return False


def _walk(paths: Sequence[str], *, option: str) -> dict[str, IndexedShard]:
    # Threads: walking waits for disks and servers.
    with ThreadPoolExecutor(_WALKERS) as pool:
        found = [compact(shard) for shard in pool.map(index_shard, paths)]
    index = build_index(found)
    if len(index) >= _WORTH_AN_INDEX or any(is_remote(path) for path in paths):
        log.info(
            "%s: walked the headers of %d shards; %s does that once", option, len(paths), _ADVICE
        )
    return {path: IndexedShard(path=path, index=index, shard=k) for k, path in enumerate(paths)}


def _warn(part: IndexedShard) -> None:
    row = part.row
    if row.damage:
        log.warning("%s is damaged (%s): %d samples are usable", part.path, row.damage, row.samples)
    elif not row.samples:
        log.warning("%s", no_samples(part.path, row))
    for count, first, kind, other in (
        (row.without_json, row.first_without_json, "photos", "JSON"),
        (row.without_jpeg, row.first_without_jpeg, "JSONs", "photo"),
    ):
        if count and row.samples:
            log.warning(
                "%s: left out %d %s without a %s (first: %s)", part.path, count, kind, other, first
            )


def no_samples(path: str, row: ShardRow) -> str:
    """Say that a shard has not a single sample."""
    kind = "Folder" if row.unpacked else "Shard"
    return (
        f"{kind} {path} holds no pair of .jpg and .json ({row.without_json} photos, "
        f"{row.without_jpeg} JSONs{', ' + row.damage if row.damage else ''})"
    )
