"""A line per set of shards about samples that were left out, for the end of a run."""

from __future__ import annotations

from sam_train.data.shards.reader import Shards
from sam_train.data.skips import KINDS, OF_MASKS, READ, Tally
from sam_train.data.storage.sources import short_name


def describe(tally: Tally, shards: Shards, *, option: str) -> str | None:
    """Describe the skips in one line; return None where everything could be used.

    Args:
        option: the setting that the shards come from (`data.train`).
    """
    counts = dict(tally.counts)
    # Taken out first, because they are no part of the samples that were skipped.
    masks = {kind: counts.pop(kind) for kind in OF_MASKS + READ if kind in counts}
    parts = []
    if counts:
        kinds = ", ".join(
            f"{count:,} {KINDS[kind]} (first: {shards.key(tally.examples[kind])})"
            for kind, count in counts.items()
        )
        parts.append(f"skipped {sum(counts.values()):,} of {tally.read:,} samples read: {kinds}")
    for kind, count in masks.items():
        key = shards.key(tally.examples[kind])
        verb = "used" if kind in READ else "skipped"
        parts.append(f"{verb} {count:,} {KINDS[kind]} (first: {key})")
    parts += _left_out(shards)
    return f"{option}: {'; '.join(parts)}" if parts else None


def _left_out(shards: Shards) -> list[str]:
    """Count the files of the shards that make no sample."""
    parts = []
    known = list(zip(shards.paths, shards.rows, strict=True))
    if alone := [(path, row) for path, row in known if row.without_json]:
        number = sum(row.without_json for _, row in alone)
        first = f"{short_name(alone[0][0])}/{alone[0][1].first_without_json}"
        parts.append(f"left out {number:,} without a JSON (first: {first})")
    if alone := [(path, row) for path, row in known if row.without_jpeg]:
        number = sum(row.without_jpeg for _, row in alone)
        first = f"{short_name(alone[0][0])}/{alone[0][1].first_without_jpeg}"
        parts.append(f"left out {number:,} without a photo (first: {first})")
    if beside := [(path, row) for path, row in known if row.others]:
        number = sum(row.others for _, row in beside)
        first = f"{short_name(beside[0][0])}/{beside[0][1].first_other}"
        parts.append(f"left out {number:,} other files (first: {first})")
    if unsafe := [(path, row) for path, row in known if row.refused]:
        number = sum(row.refused for _, row in unsafe)
        # repr: the name is whatever somebody wrote.
        first = f"{short_name(unsafe[0][0])}/{unsafe[0][1].first_refused[:80]!r}"
        parts.append(f"refused {number:,} links or unsafe names (first: {first})")
    if damaged := [(path, row) for path, row in known if row.damage]:
        first = f"{damaged[0][0]}, {damaged[0][1].damage}"
        parts.append(f"{len(damaged):,} damaged shards (first: {first})")
    return parts + [line for part in shards.parts for line in part.left_out]
