"""The plan of the new shards, made before anything is written, by names and sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from data_tools import command
from data_tools.reshard_sample import Size, remake
from data_tools.subset import Rule, short
from sam_train.data.shards.groups_file import groups_of
from sam_train.data.shards.reader import Shards
from sam_train.data.shards.writer import TarEntry
from sam_train.data.storage.tar import BLOCK

PROBES = 16
"""Samples that are made smaller to guess what the others will take."""
_SHOW_EVERY = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The samples of one output folder, in the order of the input shards."""

    samples: npt.NDArray[np.int64]
    """[n] places in the input."""
    sizes: npt.NDArray[np.int64]
    """[n] bytes that photo and JSON take in a tar, with their headers."""
    digest: str
    """Hash of their names and sizes: says whether an earlier run meant the same samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The samples to be written."""

    train: Split
    val: Split
    missing: list[str] = field(default_factory=list)
    """Names of the id list that no shard holds."""
    groups: dict[int, str] = field(default_factory=dict)
    """Place in the input -> group, of the samples that a `groups.tsv` beside the shards names."""


def tar_size(*sizes: int) -> int:
    """Count the bytes of files of these sizes in a tar: whole blocks, and a header each."""
    return sum(BLOCK * (1 - (-size // BLOCK)) for size in sizes)


class _Gathering:
    """A split that grows."""

    def __init__(self) -> None:
        self._samples: list[int] = []
        self._sizes: list[int] = []
        self._digest = hashlib.sha256()

    def add(self, sample: int, name: str, jpeg: int, json: int) -> None:
        self._samples.append(sample)
        self._sizes.append(tar_size(jpeg, json))
        self._digest.update(f"{name} {jpeg} {json}\n".encode())

    def split(self) -> Split:
        return Split(
            samples=np.array(self._samples, dtype=np.int64),
            sizes=np.array(self._sizes, dtype=np.int64),
            digest=self._digest.hexdigest(),
        )


def choose(shards: Shards, rule: Rule, *, ids: Collection[str] | None = None) -> Chosen:
    """Go through all names. The rule looks at the group of a sample that has one, so that photos of
    one scene never lie on both sides.

    Args:
        rule: validation images come first; the others train if their rank says so.
        ids: only these names train; None: all. The validation images do not depend on it.
    """
    train, val = _Gathering(), _Gathering()
    wanted = None if ids is None else set(ids)
    missing = set(wanted or ())
    groups = groups_of(shards, samples=len(shards))
    with command.progress("choosing", total=len(shards), unit="samples") as bar:
        for sample in range(len(shards)):
            name = short(shards.key(sample))
            missing.discard(name)
            ranked = groups.get(sample, name)
            if rule.validates(ranked):
                split = val
            elif (wanted is None or name in wanted) and rule.trains(ranked):
                split = train
            else:
                split = None
            if split is not None:
                place = shards.place(sample)
                split.add(sample, name, place.jpeg.size, place.json.size)
            if sample % _SHOW_EVERY == _SHOW_EVERY - 1:
                bar.advance(_SHOW_EVERY)
    return Chosen(train=train.split(), val=val.split(), missing=sorted(missing), groups=groups)


def cut(
    sizes: npt.NDArray[np.int64], *, samples: int | None = None, size: float | None = None
) -> list[range]:
    """Neighbouring samples of each shard, none of them empty.

    Args:
        sizes: [n] bytes of each sample.
        samples: of one shard, or
        size: bytes of one shard: a new one begins before the sample that would exceed it.
    """
    if samples is not None:
        return [range(k, min(k + samples, len(sizes))) for k in range(0, len(sizes), samples)]
    parts: list[range] = []
    begin, filled = 0, 0
    for k, each in enumerate(sizes.tolist()):
        if k > begin and filled + each > (size or 0):
            parts.append(range(begin, k))
            begin, filled = k, 0
        filled += each
    return [*parts, range(begin, len(sizes))] if len(sizes) else []


def shrinkage(shards: Shards, split: Split, size: Size) -> float:
    """Estimate how many bytes remain of one, by a few samples spread over the split."""
    if size.long_side is None or not len(split.samples):
        return 1.0
    before = after = 0
    picks = np.unique(np.linspace(0, len(split.samples) - 1, PROBES).round().astype(int))
    for sample in split.samples[picks].tolist():
        try:
            entry = shards.read(sample)
        except OSError:
            continue
        old = TarEntry(key="", jpeg=entry.jpeg, json=entry.json)
        if new := remake(old, name="", size=size).entry:
            before += tar_size(len(old.jpeg), len(old.json))
            after += tar_size(len(new.jpeg), len(new.json))
    return after / before if before else 1.0
