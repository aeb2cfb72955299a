"""95 % intervals of held-out scores by resampling groups of photos, whatever the rank count.

Masks of one photo are alike, and so are photos of one scene, patient or slide. The unit of
resampling is therefore the group that `groups.tsv` names, and the photo where it names none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sam_train.eval.frame.bootstrap import Interval, effective_units, interval, resampled_means

CONFIDENCE = 0.95
RESAMPLINGS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSums:
    """A photo's part of the means over masks."""

    position: int
    """The photo's place in data.val."""
    group: str | None
    """The scene, patient or slide that the photo shows; None where it is a unit by itself."""
    masks: int
    sums: list[float]
    """[k]: per kind of value, the sum over its masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """The intervals of k means by the spread over groups."""

    ends: list[Interval] = field(default_factory=list)
    """k intervals; none where fewer than two groups were seen."""
    units: int = 0
    """Number of groups that were resampled; a photo without a group counts as one."""
    grouped: bool = False
    """True where any photo had a group."""


def photo_sums(
    values: npt.NDArray[np.float64],
    *,
    owners: Sequence[int],
    positions: Sequence[int],
    groups: Mapping[int, str],
) -> list[PhotoSums]:
    """Return the sums of a batch's photos.

    Args:
        values: [M, k] per mask.
        owners: M image numbers in the batch.
        positions: of the batch's images in data.val.
        groups: position -> group.
    """
    of_photo = np.asarray(owners, dtype=np.int64)
    found = []
    for image, position in enumerate(positions):
        own = values[of_photo == image]
        if len(own):
            found.append(
                PhotoSums(
                    position=position,
                    group=groups.get(position),
                    masks=len(own),
                    sums=own.sum(0).tolist(),
                )
            )
    return found


def intervals(photos: Sequence[PhotoSums]) -> Intervals:
    """Return the intervals of the means over all masks of `photos`, in any order."""
    totals: dict[tuple[str, str | int], npt.NDArray[np.float64]] = {}
    # In the order of the data, so that sums round the same however the ranks shared the photos.
    ordered = sorted(enumerate(photos), key=lambda each: (each[1].position, each[0]))
    for number, (_, photo) in enumerate(ordered):
        unit = ("photo", number) if photo.group is None else ("group", photo.group)
        row = np.array([photo.masks, *photo.sums], dtype=np.float64)
        totals[unit] = totals[unit] + row if unit in totals else row
    grouped = any(photo.group is not None for photo in photos)
    # A single unit gives the same mean in every resample, an interval of width 0.
    if len(totals) < 2:
        return Intervals(units=len(totals), grouped=grouped)
    table = np.stack(list(totals.values()))
    drawn = resampled_means(table[:, 1:], table[:, 0], times=RESAMPLINGS)
    units = effective_units(table[:, 0])
    ends = [
        interval(drawn[:, k], confidence=CONFIDENCE, units=units) for k in range(drawn.shape[1])
    ]
    return Intervals(ends=ends, units=len(table), grouped=grouped)
