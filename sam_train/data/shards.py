"""Tars in Meta's layout, read where they lie: pairs of `sa_N.jpg` and `sa_N.json`.

Nothing is extracted. Headers are walked once for the offsets; a sample is then two ranged reads.
No file stays open, so reading is safe from threads and after fork or spawn.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
from braceexpand import braceexpand

from sam_train.data.tar import Listing, list_members
from sam_train.errors import UserError

log = logging.getLogger(__name__)


MAX_MEMBER = 1 << 28
"""Bytes. A photo or JSON above this is damage, and not read (SA-1B's are below 10 MB)."""


def resolve(patterns: str | Sequence[str], *, option: str) -> list[str]:
    """The shards that paths, folders, globs, brace patterns and URLs stand for, sorted.

    Args:
        option: the setting they come from, for messages (`data.train`).

    Raises:
        UserError: nothing is given, a pattern matches nothing, or a path does not exist.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns or [])
    given = [str(p) for p in given if str(p)]
    if not given:
        raise UserError(f"{option} is not set: give it the path of a tar or of a folder of tars.")
    shards = {shard for pattern in given for shard in _expand(pattern, option=option)}
    return sorted(shards)


def _expand(pattern: str, *, option: str) -> list[str]:
    # A name that exists is taken as it is, even with brackets or braces in it.
    if not _is_remote(pattern) and Path(pattern).expanduser().exists():
        names = [pattern]
    else:
        try:
            names = list(braceexpand(pattern))
        except ValueError:  # braceexpand's UnbalancedBracesError
            raise UserError(f"{option}={pattern}: the braces do not balance.") from None
    return [shard for name in names for shard in _expand_name(name, option=option)]


def _expand_name(name: str, *, option: str) -> list[str]:
    if _is_remote(name):
        return [name]
    path = Path(name).expanduser()
    if path.is_dir():
        found = sorted(str(p) for p in path.glob("*.tar"))
        problem = f"the folder {path} holds no .tar"
    elif path.exists():
        return [str(path)]
    else:
        found = sorted(glob.glob(str(path)))  # noqa: PTH207 - Path.glob takes no absolute pattern
        problem = f"{path} matches nothing" if glob.has_magic(name) else f"{path} does not exist"
    if not found:
        raise UserError(f"{option}: {problem}; check the path, or make shards first.")
    return found


def _is_remote(name: str) -> bool:
    return "://" in name


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """Where the n complete samples of one shard lie, in the order of their photos."""

    path: str
    keys: npt.NDArray[np.bytes_]
    """[n] member names without extension."""
    jpegs: npt.NDArray[np.int64]
    """[n, 2] offset and size in bytes."""
    jsons: npt.NDArray[np.int64]
    """[n, 2] offset and size in bytes."""
    without_json: list[str]
    """Photos that were left out because no JSON has their name."""
    without_jpeg: list[str]
    """JSONs that were left out because no photo has their name."""
    damage: str | None
    """Why the walk ended before the end of the tar, if it did; what came before is usable."""


def index_shard(path: str) -> ShardIndex:
    """Walk the headers of one tar.

    Raises:
        UserError: it is missing, empty, not a tar, or holds no complete sample.
    """
    try:
        listing = _list(path)
    except FileNotFoundError:
        raise UserError(f"Shard {path} does not exist; check data.train and data.val.") from None
    except Exception as error:
        # fsspec's backends raise what they like.
        raise UserError(f"Shard {path} cannot be read ({error}); check access to it.") from None
    found, damage = listing.members, listing.damage
    jpegs = {m.name.removesuffix(".jpg"): m for m in found if m.name.endswith(".jpg")}
    jsons = {m.name.removesuffix(".json"): m for m in found if m.name.endswith(".json")}
    keys = [key for key in jpegs if key in jsons]
    if not keys:
        raise UserError(
            f"Shard {path} holds no pair of .jpg and .json ({len(jpegs)} photos, {len(jsons)} "
            f"JSONs{', ' + damage if damage else ''}); get it again or leave it out."
        )
    return ShardIndex(
        path=path,
        keys=np.array([key.encode() for key in keys]),
        jpegs=np.array([(jpegs[key].offset, jpegs[key].size) for key in keys], dtype=np.int64),
        jsons=np.array([(jsons[key].offset, jsons[key].size) for key in keys], dtype=np.int64),
        without_json=[jpegs[key].name for key in jpegs if key not in jsons],
        without_jpeg=[jsons[key].name for key in jsons if key not in jpegs],
        damage=damage,
    )


def _list(path: str) -> Listing:
    with _open(path) as file:
        size = file.seek(0, os.SEEK_END)

        def read_at(offset: int, length: int) -> bytes:
            file.seek(offset)
            data: bytes = file.read(length)
            return data

        return list_members(read_at, size=size)


def _open(path: str) -> Any:
    # Unbuffered: the walk reads half a kilobyte of each megabyte.
    return fsspec.open(path, "rb").open() if _is_remote(path) else Path(path).open("rb", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The bytes of one sample."""

    jpeg: bytes
    json: bytes


class Shards:
    """Samples 0 .. N - 1 of several shards, in shard order. Picklable; holds no open file."""

    def __init__(self, indices: Sequence[ShardIndex]) -> None:
        self.indices = list(indices)
        self._first = np.cumsum([0, *(len(index.keys) for index in self.indices)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def key(self, sample: int) -> str:
        """Name for messages: `shard.tar/sa_12`."""
        index, row = self._locate(sample)
        return f"{index.path.rsplit('/', 1)[-1]}/{index.keys[row].decode()}"

    def read(self, sample: int) -> Entry:
        """The bytes of one sample.

        Raises:
            OSError: the shard vanished or is shorter than it was, or a file is absurdly large.
        """
        index, row = self._locate(sample)
        if max(index.jpegs[row, 1], index.jsons[row, 1]) > MAX_MEMBER:
            raise OSError(f"a file of more than {MAX_MEMBER >> 20} MiB")
        spans = [tuple(map(int, index.jpegs[row])), tuple(map(int, index.jsons[row]))]
        read = _read_remote if _is_remote(index.path) else _read_local
        parts = read(index.path, spans)
        if [len(part) for part in parts] != [size for _, size in spans]:
            raise OSError(f"{index.path} is shorter than it was")
        return Entry(jpeg=parts[0], json=parts[1])

    def _locate(self, sample: int) -> tuple[ShardIndex, int]:
        if not 0 <= sample < len(self):
            raise IndexError(sample)
        shard = int(np.searchsorted(self._first, sample, side="right")) - 1
        return self.indices[shard], sample - int(self._first[shard])


def _read_local(path: str, spans: Sequence[tuple[int, ...]]) -> list[bytes]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return [os.pread(descriptor, size, offset) for offset, size in spans]
    finally:
        os.close(descriptor)


def _read_remote(path: str, spans: Sequence[tuple[int, ...]]) -> list[bytes]:
    filesystem, name = fsspec.core.url_to_fs(path)
    return [filesystem.cat_file(name, start=offset, end=offset + size) for offset, size in spans]


def open_shards(patterns: str | Sequence[str], *, option: str) -> Shards:
    """Resolve and index; leftovers and damage of a shard are warned about, one line each.

    Raises:
        UserError: see `resolve` and `index_shard`.
    """
    indices = []
    for path in resolve(patterns, option=option):
        index = index_shard(path)
        indices.append(index)
        if index.damage:
            log.warning(
                "%s is damaged (%s): %d samples are usable", path, index.damage, len(index.keys)
            )
        for names, kind, other in (
            (index.without_json, "photos", "JSON"),
            (index.without_jpeg, "JSONs", "photo"),
        ):
            if names:
                log.warning(
                    "%s: left out %d %s without a %s (first: %s)",
                    path,
                    len(names),
                    kind,
                    other,
                    names[0],
                )
    return Shards(indices)
