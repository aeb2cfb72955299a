"""Findings of verify: per shard while it runs, over all of them at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from data_tools.shard_scan import Chunk, ShardListing
from data_tools.verify_checks import KINDS, REPEATS, SHARD_KINDS, Checked, check_sample, hash64
from sam_train.data.storage.sources import short_name

EXAMPLES = 3
"""Findings of a kind that a shard's report shows."""
_MAX_DETAIL = 300


@dataclass(slots=True)
class Finding:
    """A kind of problem in a shard, and its number."""

    count: int = 0
    """Members, samples or masks, after the kind."""
    samples: int = 0
    """Samples concerned."""
    examples: list[str] = field(default_factory=list)
    """The first few, `key: detail`."""

    def merge(self, other: Finding) -> None:
        """Add the findings of later samples."""
        self.count += other.count
        self.samples += other.samples
        self.examples = [*self.examples, *other.examples][:EXAMPLES]


@dataclass(slots=True)
class ShardReport:
    """Findings in one shard; a `shard_scan.Part`."""

    path: str
    bytes: int = 0
    masks: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)
    """Findings by kind."""
    unusable: dict[str, list[str]] = field(default_factory=dict)
    """The kinds of problems of every sample that is to be excluded, by key."""
    keys: list[str] = field(default_factory=list)
    """Keys of the samples, in the order of the shard; the identities' rows."""
    identities: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """[n, 2] image_id (-1: unknown) and 64 bits of the photo's hash (0: unreadable)."""

    def add(self, kind: str, details: list[str], *, key: str | None = None) -> None:
        """Note the findings of one kind, of a sample or (key None) of the shard."""
        prefix = "" if key is None else f"{key}: "
        examples = [f"{prefix}{detail}"[:_MAX_DETAIL] for detail in details[:EXAMPLES]]
        new = Finding(len(details), int(key is not None), examples)
        self.findings.setdefault(kind, Finding()).merge(new)
        if key is not None and KINDS[kind].unusable:
            kinds = self.unusable.setdefault(key, [])
            if kind not in kinds:
                kinds.append(kind)

    def merge(self, other: Self) -> None:
        """Add what was found in the samples that follow."""
        self.masks += other.masks
        for kind, finding in other.findings.items():
            self.findings.setdefault(kind, Finding()).merge(finding)
        self.unusable |= other.unusable
        self.keys += other.keys
        self.identities = np.concatenate([self.identities, other.identities])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Convert to the arrays that are kept on disk."""
        rest = asdict(self)
        identities = rest.pop("identities")
        return {
            "identities": identities,
            "rest": np.frombuffer(json.dumps(rest).encode(), dtype=np.uint8),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Restore from `arrays`. Raises KeyError or ValueError if they are none of this kind."""
        rest = json.loads(arrays["rest"].tobytes())
        findings = {kind: Finding(**finding) for kind, finding in rest.pop("findings").items()}
        if not findings.keys() <= KINDS.keys() or len(rest["keys"]) != len(arrays["identities"]):
            raise ValueError("no report of this version")
        return cls(**rest, findings=findings, identities=arrays["identities"])

    def as_json(self) -> dict[str, Any]:
        """Make the shard's part of the report, problems in the order of KINDS."""
        return {
            "shard": self.path,
            "bytes": self.bytes,
            "samples": len(self.keys),
            "masks": self.masks,
            "problems": {k: asdict(self.findings[k]) for k in KINDS if k in self.findings},
            "excluded": [{"key": key, "problems": kinds} for key, kinds in self.unusable.items()],
        }


def begin_report(listing: ShardListing) -> ShardReport:
    """Begin the findings of a shard with those that its headers show."""
    report = ShardReport(path=listing.path, bytes=listing.size)
    if listing.error:
        report.add("unreadable_shard", [listing.error])
        return report
    if listing.damage:
        report.add("cut_shard", [listing.damage])
    if not listing.pairs:
        report.add("no_sample", ["no pair of .jpg and .json"])
    for kind, names in (
        ("photo_without_json", listing.without_json),
        ("json_without_photo", listing.without_jpeg),
        ("other_file", listing.others),
        ("repeated_member", listing.repeated),
        ("refused_member", listing.refused),
    ):
        if names:
            report.add(kind, names)
    return report


def examine_chunk(chunk: Chunk, *, decode: bool) -> ShardReport:
    """Check some samples of a shard, each on its own."""
    report = ShardReport(path=chunk.path)
    identities = []
    for pair in chunk.pairs:
        try:
            jpeg, text = chunk.read(pair)
            checked = check_sample(pair.key, jpeg, text, decode=decode)
        except OSError as error:
            checked = Checked()
            checked.add("unreadable", str(error))
        for kind, details in checked.problems.items():
            report.add(kind, details, key=pair.key)
        report.masks += checked.masks
        report.keys.append(pair.key)
        # numpy's int64 holds the hash's 64 bits as they are, with a sign.
        identities.append((checked.image_id, np.uint64(checked.jpeg_hash).astype(np.int64)))
    report.identities = np.array(identities, dtype=np.int64).reshape(-1, 2)
    return report


def find_repeats(reports: list[ShardReport]) -> None:
    """Note every sample that an earlier one already is: by name, image_id or photo."""
    if not any(len(report.keys) for report in reports):
        return
    first = np.cumsum([0, *(len(report.keys) for report in reports)])
    identities = np.concatenate([report.identities for report in reports])
    names = np.fromiter(
        (hash64(key.encode("utf-8", "replace")) for report in reports for key in report.keys),
        dtype=np.uint64,
        count=int(first[-1]),
    )
    columns = (names.view(np.int64), identities[:, 0], identities[:, 1])
    for kind, column, unknown in zip(REPEATS, columns, (None, -1, 0), strict=True):
        for earlier, later in sorted(_repeats(column, unknown), key=lambda pair: pair[1]):
            home, shard = (
                int(np.searchsorted(first, s, side="right")) - 1 for s in (earlier, later)
            )
            original = reports[home].keys[earlier - first[home]]
            key = reports[shard].keys[later - first[shard]]
            detail = f"as {reports[home].path}/{original}"
            reports[shard].add(kind, [detail], key=key)
    for report in reports:
        if len(report.unusable) > 1:
            unusable = report.unusable
            report.unusable = {key: unusable[key] for key in report.keys if key in unusable}


def _repeats(column: npt.NDArray[np.int64], unknown: int | None) -> Iterator[tuple[int, int]]:
    """Find (first place, later place) of every value that occurs again, but for the unknown one."""
    # Stable: of equal values, the first in the order of the shards comes first.
    order = np.argsort(column, kind="stable")
    ordered = column[order]
    again = np.zeros(len(column), dtype=bool)
    again[1:] = ordered[1:] == ordered[:-1]
    if unknown is not None:
        again &= ordered != unknown
    starts = np.maximum.accumulate(np.where(again, 0, np.arange(len(column))))
    for place in np.flatnonzero(again):
        yield int(order[starts[place]]), int(order[place])


def exclusions(reports: list[ShardReport]) -> list[str]:
    """List `shard.tar/key` of every sample that training should leave out, as `data.exclude`
    reads."""
    return [f"{short_name(report.path)}/{key}" for report in reports for key in report.unusable]


def totals(reports: list[ShardReport]) -> dict[str, Finding]:
    """Total the findings of all shards by kind, in the order of KINDS; examples name their
    shard."""
    total = {kind: Finding() for kind in KINDS}
    for report in reports:
        name = short_name(report.path)
        for kind, finding in report.findings.items():
            separator = ": " if kind in SHARD_KINDS else "/"
            examples = [f"{name}{separator}{example}" for example in finding.examples]
            total[kind].merge(Finding(finding.count, finding.samples, examples))
    return {kind: finding for kind, finding in total.items() if finding.count}


def as_json(reports: list[ShardReport], *, decoded: bool) -> dict[str, Any]:
    """Make the machine-readable report; its `exclude` is what `data.exclude` reads."""
    problems = totals(reports)
    return {
        "format": "sam_train verify 1",
        "decoded": decoded,
        "shards": len(reports),
        "samples": sum(len(report.keys) for report in reports),
        "masks": sum(report.masks for report in reports),
        "problems": {kind: asdict(finding) for kind, finding in problems.items()},
        "meaning": {kind: KINDS[kind].what for kind in problems},
        "exclude": exclusions(reports),
        "per_shard": [report.as_json() for report in reports],
    }


def repeated_shard_names(paths: list[str]) -> list[str]:
    """List shards' own names that stand for several of the paths."""
    return [name for name, times in Counter(map(short_name, paths)).items() if times > 1]
