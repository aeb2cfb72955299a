"""What was left out, in a line per set of shards: the end of a run says it."""

from __future__ import annotations

from sam_train.data.shards import Shards
from sam_train.data.skips import KINDS, Tally


def describe(tally: Tally, shards: Shards, *, option: str) -> str | None:
    """One line, or None where everything could be used.

    Args:
        option: the setting that the shards come from (`data.train`).
    """
    counts = dict(tally.counts)
    masks = counts.pop("bad_mask", 0)
    parts = []
    if counts:
        kinds = ", ".join(
            f"{count:,} {KINDS[kind]} (first: {shards.key(tally.examples[kind])})"
            for kind, count in counts.items()
        )
        parts.append(f"skipped {sum(counts.values()):,} of {tally.read:,} samples read: {kinds}")
    if masks:
        key = shards.key(tally.examples["bad_mask"])
        parts.append(f"skipped {masks:,} {KINDS['bad_mask']} (first: {key})")
    return (
        f"{option}: {'; '.join(parts + _left_out(shards))}" if parts + _left_out(shards) else None
    )


def _left_out(shards: Shards) -> list[str]:
    """What the shards hold that makes no sample."""
    parts = []
    for names, what in (
        ([n for i in shards.indices for n in _names(i.path, i.without_json)], "without a JSON"),
        ([n for i in shards.indices for n in _names(i.path, i.without_jpeg)], "without a photo"),
    ):
        if names:
            parts.append(f"left out {len(names):,} {what} (first: {names[0]})")
    if damaged := [i for i in shards.indices if i.damage]:
        first = f"{damaged[0].path}, {damaged[0].damage}"
        parts.append(f"{len(damaged):,} damaged shards (first: {first})")
    return parts


def _names(path: str, members: list[str]) -> list[str]:
    return [f"{path.rsplit('/', 1)[-1]}/{member}" for member in members]
