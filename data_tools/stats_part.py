"""The figures of `stats` as histograms of fixed bins: constant memory, and shards add up."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from data_tools import stats_kernels
from data_tools.shard_scan import Chunk, ShardListing
from data_tools.verify_checks import finite
from sam_train.data.sample.decode import BadSample, open_photo, read_masks
from sam_train.data.shards.annotations import annotations_of, read_document

HEAT_CELLS = 64
"""Cells a side of the heat map of centres."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Equal bins from `low` to `high`; values outside count in the first or last bin."""

    low: float
    high: float
    bins: int
    whole: bool = False
    """The values are whole numbers, each in the middle of its own bin."""

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """float64 [bins + 1]."""
        return np.linspace(self.low, self.high, self.bins + 1)

    def count(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Count into int64 [bins] how many of the values lie in each bin (its low edge
        included)."""
        place = np.floor((values - self.low) * (self.bins / (self.high - self.low)))
        return np.bincount(
            np.clip(place, 0, self.bins - 1).astype(np.int64), minlength=self.bins
        ).astype(np.int64)


AXES = {
    "masks_per_image": Axis(-0.5, 1000.5, 1001, whole=True),
    "relative_size": Axis(0, 1, 200),
    "concavity": Axis(0, 1, 200),
    "predicted_iou": Axis(0, 1.25, 500),
    "stability_score": Axis(0, 1, 400),
    "width": Axis(0, 10_000, 400),
    "height": Axis(0, 10_000, 400),
}
"""masks_per_image: of usable masks, exactly. relative_size: square root of mask area over image
area; concavity: 1 - mask area over the area of its convex hull (paper Fig. 6). Both scores as
stored; width and height in pixels."""

COUNTS = ("images", "masks", "bad_samples", "bad_masks", "bad_shards")


@dataclass(slots=True)
class Quantity:
    """A figure over many images or masks."""

    bins: npt.NDArray[np.int64]
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: npt.NDArray[np.float64], axis: Axis) -> None:
        """Count values."""
        if len(values):
            self.bins = self.bins + axis.count(values)
            self.total += float(values.sum())
            self.squares += float((values * values).sum())
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))

    def merge(self, other: Quantity) -> None:
        """Count what another one has counted."""
        self.bins = self.bins + other.bins
        self.total += other.total
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass(slots=True)
class Stats:
    """Figures of some samples, a shard or all shards; a `shard_scan.Part`."""

    quantities: dict[str, Quantity] = field(
        default_factory=lambda: {
            name: Quantity(np.zeros(axis.bins, np.int64)) for name, axis in AXES.items()
        }
    )
    """Counts by name of AXES."""
    centres: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((HEAT_CELLS, HEAT_CELLS), np.int64)
    )
    """[row, column] of the image scaled to a unit square: centres of mass (paper Fig. 5)."""
    images: int = 0
    masks: int = 0
    """Usable ones."""
    bad_samples: int = 0
    """Left out: unreadable, or no sample of SA-1B's kind."""
    bad_masks: int = 0
    """Left out: an invalid RLE, or empty."""
    bad_shards: int = 0
    """Unreadable or cut; of a cut one, what came before is counted."""

    def merge(self, other: Self) -> None:
        """Add what was found in the samples that follow."""
        for name, quantity in other.quantities.items():
            self.quantities[name].merge(quantity)
        self.centres = self.centres + other.centres
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Convert to the arrays that are kept on disk."""
        kept: dict[str, npt.NDArray[Any]] = {
            "centres": self.centres,
            "counts": np.array([getattr(self, name) for name in COUNTS], dtype=np.int64),
        }
        for name, q in self.quantities.items():
            kept[f"{name}.bins"] = q.bins
            kept[f"{name}.sums"] = np.array([q.total, q.squares, q.low, q.high])
        return kept

    @classmethod
    def from_arrays(cls, arrays: dict[str, npt.NDArray[Any]]) -> Self:
        """Restore from `arrays`. Raises KeyError or ValueError if they are none of this kind."""
        counts = {n: int(v) for n, v in zip(COUNTS, arrays["counts"], strict=True)}
        quantities = {
            name: Quantity(arrays[f"{name}.bins"], *map(float, arrays[f"{name}.sums"]))
            for name in AXES
        }
        if any(len(quantities[name].bins) != axis.bins for name, axis in AXES.items()):
            raise ValueError("other bins")
        return cls(quantities=quantities, centres=arrays["centres"], **counts)

    def add_sample(self, jpeg: bytes, text: bytes) -> None:
        """Count one sample; raises BadSample."""
        photo = open_photo(jpeg)
        height, width = photo.height, photo.width
        runs = read_masks(text, height=height, width=width).runs
        usable = np.flatnonzero((runs.status == 0) & (runs.areas > 0)).astype(np.int64)
        found = np.zeros((len(usable), 3))
        stats_kernels.shapes(runs.ends, runs.starts, runs.height, runs.extents, usable, found)
        areas = runs.areas[usable].astype(np.float64)
        self._add(
            masks_per_image=np.array([float(len(usable))]),
            width=np.array([float(width)]),
            height=np.array([float(height)]),
            relative_size=np.sqrt(areas / (height * width)),
            concavity=1 - areas / found[:, 2],
            **_scores(text, usable),
        )
        cells = np.minimum(found[:, :2] / (width, height) * HEAT_CELLS, HEAT_CELLS - 1)
        columns, rows = cells.astype(np.int64).T
        np.add.at(self.centres, (rows, columns), 1)
        self.images += 1
        self.masks += len(usable)
        self.bad_masks += len(runs.status) - len(usable)

    def _add(self, **values: npt.NDArray[np.float64]) -> None:
        for name, each in values.items():
            self.quantities[name].add(each, AXES[name])


def _scores(text: bytes, usable: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the scores of the usable masks; of those that have them."""
    annotations = annotations_of(read_document(text))
    result = {}
    for name in ("predicted_iou", "stability_score"):
        values = [finite(annotations[k].get(name)) for k in usable]
        result[name] = np.array([v for v in values if v is not None], dtype=np.float64)
    return result


def begin_stats(listing: ShardListing) -> Stats:
    """Begin the figures of a shard with those that its headers show."""
    return Stats(bad_shards=int(bool(listing.error or listing.damage)))


def examine_chunk(chunk: Chunk) -> Stats:
    """Measure some samples."""
    stats = Stats()
    for pair in chunk.pairs:
        try:
            stats.add_sample(*chunk.read(pair))
        except (BadSample, OSError):
            stats.bad_samples += 1
    return stats
