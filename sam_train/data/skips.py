"""Samples that could not be used: counted over all workers, warned about now and then."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch.utils.data import get_worker_info

from sam_train.errors import UserError
from sam_train.masks import rle

log = logging.getLogger(__name__)

KINDS = {
    "unreadable": "could not be read from the shard",
    "bad_jpeg": "corrupt or oversized JPEG",
    "bad_json": "corrupt JSON",
    "bad_rle": "every mask's RLE is invalid",
    "no_masks": "every mask is empty or too large",
    "no_cell": "every mask is smaller than a cell of the loss grid",
    "bad_mask": "single masks with an invalid RLE (their photo was used)",
    "mask_size": "masks whose size is not the photo's (their photo was used)",
    "no_segmentation": "annotations without a segmentation (their photo was used)",
    "bad_segmentation": "masks that are neither run lengths nor polygons (their photo was used)",
    "bad_polygon": "masks with a polygon that cannot be meant (their photo was used)",
    "small_mask": "masks smaller than a cell of the loss grid (their photo was used)",
    "unusable": "photos of a data set that cannot be used, or none of their masks",
    "unusable_mask": "masks of a data set that cannot be used (their photo was used)",
    "polygons": "masks made from polygons",
    "plain_runs": "masks read from plain run lengths",
}
OF_MASKS = (
    *("bad_mask", "mask_size", "no_segmentation", "bad_segmentation", "bad_polygon"),
    *("small_mask", "unusable_mask"),
)
"""Kinds that count masks."""
READ = ("polygons", "plain_runs")
"""Kinds that count masks which were used, though SA-1B writes them otherwise."""
TOO_SMALL = (
    "a larger model.image_size sees smaller objects, and so do tiles (python -m data_tools.tile)"
)
"""The way out where objects have no cell."""
_NAMES = list(KINDS)
# A column behind the kinds holds the number of reads.
_READ = len(_NAMES)
# Larger than any sample's number, so a minimum passes over it.
_NONE = 2**63 - 1
# The fraction of a handful of samples says nothing.
_JUDGED_FROM = 100


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of samples that were read and of those that could not be used, over some workers or
    ranks."""

    read: int = 0
    """Samples read, each time they were."""
    counts: dict[str, int] = field(default_factory=dict)
    """Counts by kind of KINDS, without zeros."""
    examples: dict[str, int] = field(default_factory=dict)
    """The lowest sample index of each kind."""


def kind_of(status: int) -> str:
    """Return the kind of KINDS that counts masks of a status of `rle.PROBLEMS`."""
    if status in {rle.NO_OBJECT, rle.NO_SEGMENTATION}:
        return "no_segmentation"
    if status in {rle.UNKNOWN_SEGMENTATION, rle.NO_SIZE, rle.NO_RUNS}:
        return "bad_segmentation"
    if status >= rle.BAD_POLYGON:
        return "bad_polygon"
    return "mask_size" if status == rle.SIZE_DISAGREES else "bad_mask"


def add_up(tallies: Iterable[Tally]) -> Tally:
    """Add up several tallies; they must mean the same shards."""
    total = Tally()
    for tally in tallies:
        total.read += tally.read
        for kind, count in tally.counts.items():
            total.counts[kind] = total.counts.get(kind, 0) + count
            index = tally.examples[kind]
            total.examples[kind] = min(total.examples.get(kind, index), index)
    return total


class Skips:
    """Counts per kind in memory that workers share, however they are started."""

    def __init__(self, *, workers: int, max_fraction: float) -> None:
        # A row for each process: increments by several processes would get lost.
        self._counts = torch.zeros(workers + 1, _READ + 1, dtype=torch.int64)
        self._counts.share_memory_()  # type: ignore[no-untyped-call]
        self._lowest = torch.full((workers + 1, _READ), _NONE)
        self._lowest.share_memory_()  # type: ignore[no-untyped-call]
        self._max_fraction = max_fraction

    def read(self) -> None:
        """Count one attempt to read a sample."""
        self._counts.numpy()[self._row(), _READ] += 1  # torch takes 20 times as long

    def add(self, kind: str, message: str, *, index: int, count: int = 1) -> None:
        """Count a skip of sample `index` and warn about the first three, then at powers of ten.

        A kind of READ is said once.
        """
        # Of all workers, who warn about the same first three; two at once may both warn, which is
        # harmless.
        before = self.totals().get(kind, 0)
        place = self._row(), _NAMES.index(kind)
        self._counts[place] += count
        # Not the first that was met: which that is depends on the number of workers.
        self._lowest[place] = min(index, int(self._lowest[place]))
        now = before + count
        if kind in READ:
            if not before:
                log.info("%s", message)
        elif before < 3 or len(str(now)) > len(str(before)):
            log.warning("Skipped (%s, number %d): %s", kind, now, message)

    def totals(self) -> dict[str, int]:
        """Return the skips so far by kind, without zeros."""
        sums = self._counts.sum(0).tolist()
        return {name: sums[i] for i, name in enumerate(_NAMES) if sums[i]}

    def tally(self) -> Tally:
        """Return the whole tally, for the report at the end."""
        lowest, counts = self._lowest.amin(0).tolist(), self.totals()
        return Tally(
            read=int(self._counts[:, _READ].sum()),
            counts=counts,
            examples={kind: lowest[_NAMES.index(kind)] for kind in counts},
        )

    def check(self, *, last: str) -> None:
        """Stop when the damage is not one sample's fault.

        Args:
            last: the newest of the skipped samples and its problem, for the message.

        Raises:
            UserError: more than the allowed fraction of the samples was skipped.
        """
        read = int(self._counts[:, _READ].sum())
        # Photos only: a photo whose other masks were used is a sample like any other.
        totals = {kind: n for kind, n in self.totals().items() if kind not in OF_MASKS + READ}
        skipped = sum(totals.values())
        if read >= _JUDGED_FROM and skipped > self._max_fraction * read:
            kinds = ", ".join(f"{count} {KINDS[kind]}" for kind, count in totals.items())
            small = totals.get("no_cell", 0) > skipped / 2
            raise UserError(
                f"{skipped} of {read} samples could not be used ({kinds}; the last: {last}): "
                f"{TOO_SMALL if small else 'check the shards of data.train'}, or raise "
                f"data.max_skip_fraction above {self._max_fraction}."
            )

    @staticmethod
    def _row() -> int:
        worker = get_worker_info()
        return 0 if worker is None else worker.id + 1
