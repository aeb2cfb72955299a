"""Objects that the loss grid cannot show, counted before training on a sample of the photos."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import numpy.typing as npt

from sam_train.data.sample import select
from sam_train.data.sample.cells import cell_side, with_cell
from sam_train.data.sample.decode import BadSample, open_entry, read_masks
from sam_train.data.shards.reader import Shards
from sam_train.errors import UserError
from sam_train.masks.frame import InputFrame
from sam_train.masks.rle import Runs

log = logging.getLogger(__name__)

PHOTOS = 32
"""Photos that are looked at; they lie evenly over the shards."""
_FACTORS = (2, 3, 4, 6, 8)
_WORTH_A_WARNING = 0.01
_ENOUGH = 0.05
"""A larger input is named that leaves no more than this part of the small objects unseen; where
none does, the one that leaves fewest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The loss grid, as the settings have it."""

    image_size: int
    """S."""
    cells: int
    """R."""
    mask_sampling: str
    zoom: float = 1.0
    """Largest factor of `data.scale_jitter`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Photo:
    frame: InputFrame
    runs: Runs
    usable: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Objects of some photos, and those of them that have no cell of the loss grid."""

    grid: Grid
    photos: int
    """Photos looked at; those that cannot be read are not among them."""
    of: int
    """Photos that there are."""
    blind: int
    """Photos of which no object has a cell."""
    objects: int
    without: int
    """Objects without a cell."""
    cell: float
    """Side of a cell in pixels of the photo: the median of the photos with such objects."""
    longest: float
    """Longest side of those photos, likewise."""
    other_sampling: int
    """Objects without a cell with the other `data.mask_sampling`."""
    larger: tuple[int, int] | None
    """An input size that sees more, and the objects without a cell there."""

    def describe(self, option: str, *, scored: bool = False) -> str:
        """Return a line for people.

        Args:
            option: the setting that the shards come from (`data.train`).
            scored: whether the objects are only measured, not trained on.
        """
        grid = self.grid
        line = (
            f"{option}: {self.without:,} of {self.objects:,} objects are smaller than a cell of "
            f"the loss grid ({self.cell:.3g} photo pixels at model.image_size={grid.image_size}, "
            f"data.mask_sampling={grid.mask_sampling}; looked at {self.photos:,} of {self.of:,} "
            "photos)"
        )
        if scored:
            return f"{line}; they are scored all the same, at the photo's resolution."
        blind = f", and so are {self.blind:,} photos that show no other" if self.blind else ""
        return f"{line} and are left out of training{blind}. {self.way_out()}"

    def way_out(self) -> str:
        """Return a sentence about the settings that would see more of the objects."""
        ways = []
        if self.larger is not None:
            side, without = self.larger
            # A tile of this side fills the present input at the scale of the larger one.
            tile = int(self.longest * self.grid.image_size / side)
            ways.append(
                f"model.image_size={side} would see {self._share(without)}, as would tiles of "
                f"{tile:,} photo pixels (python -m data_tools.tile)"
            )
        if self.other_sampling < self.without:
            other = "area" if self.grid.mask_sampling == "nearest" else "nearest"
            share = self._share(self.other_sampling)
            ways.append(f"data.mask_sampling={other} would see {share}")
        return "; ".join(ways) + "." if ways else "No setting sees them: mend the masks."

    def _share(self, without: int) -> str:
        return f"{self.objects - without:,} of {self.objects:,}"


def survey(shards: Shards, *, samples: int, grid: Grid, max_area_fraction: float) -> Survey | None:
    """Count objects without a cell on up to `PHOTOS` photos; no photo is decoded.

    Args:
        samples: the first so many of the shards.

    Returns:
        None where every object has a cell, or nothing can be read.
    """
    # Evenly, not at random: the line is the same each time, and shards may differ.
    chosen = np.unique(np.linspace(0, samples - 1, min(PHOTOS, samples)).round().astype(np.int64))
    # Reading waits for disks or servers; parsing is short.
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda k: _look(shards, int(k), grid, max_area_fraction), chosen)
        photos = [photo for photo in found if photo is not None]
    seen = [_seen(photo, grid) for photo in photos]
    small = [photo for photo, each in zip(photos, seen, strict=True) if not each.all()]
    if not small:
        return None
    other = "area" if grid.mask_sampling == "nearest" else "nearest"
    return Survey(
        grid=grid,
        photos=len(photos),
        of=samples,
        blind=sum(not each.any() for each in seen),
        objects=sum(len(each) for each in seen),
        without=_without(seen),
        # At jitter's largest factor a cell shows so many photo pixels fewer.
        cell=median(cell_side(photo.frame, grid.cells) for photo in small) / grid.zoom,
        longest=median(float(max(photo.frame.original)) for photo in small),
        other_sampling=_without(
            [_seen(photo, replace(grid, mask_sampling=other)) for photo in photos]
        ),
        larger=_larger(photos, grid, without=_without(seen)),
    )


def report(found: Survey | None, *, option: str, max_skip_fraction: float) -> None:
    """Say what training will leave out.

    Raises:
        UserError: no object at all has a cell.
    """
    if found is None:
        return
    line = found.describe(option)
    if found.without == found.objects:
        raise UserError(f"nothing to train on: {line}")
    if found.blind > max_skip_fraction * found.photos:
        line += (
            " Such photos are unusable samples, and training stops where they are more than "
            f"data.max_skip_fraction={max_skip_fraction:g} of all."
        )
    small = found.without < _WORTH_A_WARNING * found.objects
    log.log(logging.INFO if small else logging.WARNING, "%s", line)


def report_scored(found: Survey | None, *, option: str) -> None:
    """Say that objects without a cell are among those that are scored."""
    if found is not None:
        log.info("%s", found.describe(option, scored=True))


def _look(shards: Shards, sample: int, grid: Grid, max_area_fraction: float) -> _Photo | None:
    try:
        entry = shards.read(sample)
        photo = open_entry(entry)
        runs = read_masks(entry.json, height=photo.height, width=photo.width).runs
    except (OSError, BadSample):
        return None  # training counts it
    usable = select.usable(
        runs, pixels=photo.height * photo.width, max_area_fraction=max_area_fraction
    )
    if not len(usable):
        return None
    frame = InputFrame(original=(photo.height, photo.width), side=grid.image_size)
    return _Photo(frame=frame, runs=runs, usable=usable)


def _seen(photo: _Photo, grid: Grid, *, factor: int = 1) -> npt.NDArray[np.bool_]:
    """Mark the objects of a photo that have a cell at a multiple of the input size: bool [n]."""
    # Not a larger scale, of which the input shows a part only: a larger input.
    zoom = factor * grid.zoom
    frame = replace(photo.frame, side=max(1, round(grid.image_size * zoom)))
    cells = max(1, round(grid.cells * zoom))
    area = grid.mask_sampling == "area"
    return with_cell(photo.runs, photo.usable, frame, cells=cells, area=area)


def _without(seen: Sequence[npt.NDArray[np.bool_]]) -> int:
    return sum(len(each) - int(each.sum()) for each in seen)


def _larger(photos: Sequence[_Photo], grid: Grid, *, without: int) -> tuple[int, int] | None:
    best: tuple[int, int] | None = None
    for factor in _FACTORS:
        left = _without([_seen(photo, grid, factor=factor) for photo in photos])
        # Strictly fewer: a larger input that sees no more is not worth its cost.
        if left < (without if best is None else best[1]):
            best = grid.image_size * factor, left
        if left <= _ENOUGH * without:
            break
    return best
