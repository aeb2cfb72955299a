"""Run lengths of masks: from label maps and polygons, and checked before pycocotools sees them.

pycocotools trusts its input. Run lengths that add up to more than the image make its decoder write
past the end of its buffer. So do a few runs of 2^24 pixels or more in its encoder. Six characters
each fill the six it reserves, which leaves no room for the closing zero. That is a crash much
later, or silence. So whatever comes from a file is checked here first, and masks are encoded here,
too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask


class Segmentation(TypedDict):
    """A mask in the form of SA-1B's JSON."""

    size: list[int]
    """[height, width]."""
    counts: str
    """COCO compressed run lengths, column-major, background first."""


MAX_PIXELS = 2**31 - 1
"""Limit of the pixels of a mask; pycocotools counts them in 32 bits."""
SLAB = 2**24 - 1
"""Pixels that pycocotools rasterises and encodes at once: no run is longer."""
SCALE = 5
"""pycocotools rounds the corners of polygons to fifths of a pixel."""

Ints = npt.NDArray[np.int64]


def run_lengths(counts: str | bytes) -> Ints:
    """Return the runs of a COCO compressed RLE, background first.

    The coding: base 48 characters of 5 bits each, least significant first, bit 5 says that more
    follow, the last one carries the sign; from the fourth run on, the difference to the run two
    before.

    Raises:
        ValueError: the string is not such a code.
    """
    raw = counts.encode("ascii") if isinstance(counts, str) else counts
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("the RLE string has characters that COCO's coding does not use")
    last = (codes & 32) == 0
    if not last[-1]:
        raise ValueError("the RLE string is cut off")
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    places = np.arange(codes.size) - np.repeat(starts, np.diff(np.append(starts, codes.size)))
    # 7 characters are 35 bits: more than any image has pixels, and far from overflowing int64.
    if places.max() >= 7:
        raise ValueError("the RLE string holds a run longer than any image")
    values = np.add.reduceat((codes & 31) << (5 * places), starts)
    ends = np.flatnonzero(last)
    negative = (codes[ends] & 16) != 0
    # Sign extension: the last character's bit 4 stands for all higher bits.
    values[negative] -= np.int64(1) << (5 * (places[ends][negative] + 1))
    runs = values.copy()
    # Differences to the run two before, so odd and even runs add up apart.
    runs[1::2] = np.cumsum(values[1::2])
    # From run 2 on: the code for run 2 is plain, for run 4 it adds to that.
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def check_size(*, height: int, width: int) -> None:
    """Refuse a mask that cannot be counted in 32 bits; photos have limits of their own.

    Raises:
        ValueError: a side or the number of pixels is out of range.
    """
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(
            f"a mask of {width} x {height} pixels: sides must be at least 1 and their product "
            f"at most {MAX_PIXELS:,}"
        )


def checked_rle(size: Sequence[int], counts: str | bytes | Sequence[int]) -> Segmentation:
    """Make a compressed RLE that pycocotools can read safely.

    Args:
        size: [height, width].
        counts: COCO compressed string, or the plain list of runs.

    Raises:
        ValueError: the runs do not fill the image exactly, or are no runs.
    """
    if len(size) != 2:
        raise ValueError(f"RLE: size must be [height, width], got {list(size)}")
    height, width = size
    check_size(height=height, width=width)
    coded = counts if isinstance(counts, str | bytes) else None
    runs = np.asarray(counts, dtype=np.int64) if coded is None else run_lengths(coded)
    if runs.size and runs.min() < 0:
        raise ValueError("the RLE has a negative run")
    if int(runs.sum()) != height * width:
        raise ValueError(
            f"the RLE covers {int(runs.sum())} pixels but its size is {height} x {width}"
        )
    if coded is None:
        return compressed(runs, height=height, width=width)
    text = coded.decode("ascii") if isinstance(coded, bytes) else coded
    return {"size": [height, width], "counts": text}


def compressed(runs: Ints, *, height: int, width: int) -> Segmentation:
    """Encode plain runs that fill the image, int64 [n], as COCO compressed RLE."""
    return {"size": [height, width], "counts": _coded(runs)}


def _coded(runs: Ints) -> str:
    """Write the coding that `run_lengths` reads, as pycocotools does."""
    left = runs.astype(np.int64)
    # As in COCO's code: not from run 2 on, whose predecessor by two is the first background.
    left[3:] -= runs[1:-2]
    codes: list[npt.NDArray[np.uint8]] = []
    going = np.ones(left.shape, dtype=bool)
    used: list[npt.NDArray[np.bool_]] = []
    while going.any():
        low = left & 31
        left >>= 5
        more = np.where(low & 16, left != -1, left != 0)
        codes.append((low + 32 * more + 48).astype(np.uint8))
        used.append(going)
        going = going & more
    if not codes:
        return ""
    table, taken = np.stack(codes, axis=1), np.stack(used, axis=1)
    return table[taken].tobytes().decode("ascii")


def runs_between(flips: Ints, *, total: int) -> Ints:
    """Return runs, background first, from the places where a mask begins or ends.

    Args:
        flips: sorted, in column-major order; two at one place cancel.
        total: pixels of the image.
    """
    places, counts = np.unique(flips, return_counts=True)
    runs: Ints = np.diff(places[counts % 2 == 1], prepend=0, append=total)
    return runs[:-1] if runs.size > 1 and runs[-1] == 0 else runs


def union_rle(masks: Sequence[Segmentation]) -> Segmentation:
    """Join masks of one size into the mask of all their pixels, whatever its number of pixels."""
    height, width = masks[0]["size"]
    total = height * width
    edges = []
    for mask in masks:
        ends = np.cumsum(run_lengths(mask["counts"]))
        # Open at its last pixel, a mask ends there.
        begins, stops = ends[::2], np.append(ends[1::2], total)[: ends[::2].size]
        edges += [np.stack([begins, np.ones_like(begins)]), np.stack([stops, -np.ones_like(stops)])]
    places, steps = np.concatenate(edges, axis=1)
    order = np.argsort(places, kind="stable")
    places, firsts = np.unique(places[order], return_index=True)
    # A pixel is in the union while more masks have begun than ended.
    covered = np.cumsum(np.add.reduceat(steps[order], firsts)) > 0
    changed = np.diff(covered, prepend=False)
    return compressed(runs_between(places[changed], total=total), height=height, width=width)


def polygons_rle(
    polygons: Sequence[Sequence[float]], *, height: int, width: int, slab: int = SLAB
) -> Segmentation:
    """Rasterise the union of polygons, x0 y0 x1 y1 ... each, with pycocotools.

    An image of more than `slab` pixels is rasterised in slabs of columns. Moving a polygon by whole
    pixels may turn a pixel of its outline over where rounding ties; else the pixels are the same.

    Raises:
        ValueError: see `check_size`.
    """
    check_size(height=height, width=width)
    if height * width <= slab:
        return as_segmentation(
            coco_mask.merge(coco_mask.frPyObjects(list(polygons), height, width))
        )
    # Whole columns, because runs are column-major.
    wide = max(1, slab // height)
    fifths = [np.trunc(SCALE * np.asarray(p, dtype=np.float64) + 0.5) for p in polygons]
    reach = [(p[::2].min() / SCALE - 1, p[::2].max() / SCALE + 1) for p in fifths]
    flips: list[Ints] = []
    for left in range(0, width, wide):
        across = min(wide, width - left)
        near = [
            _moved(p, left)
            for p, (low, high) in zip(fifths, reach, strict=True)
            if high >= left and low <= left + across
        ]
        if near:
            found = coco_mask.merge(coco_mask.frPyObjects(near, height, across))
            ends = np.cumsum(run_lengths(found["counts"]))
            # Open at its last pixel, a mask ends there; the next slab may begin it anew.
            closed = ends if ends.size % 2 == 0 else ends[:-1]
            flips.append(closed + left * height)
    joined = np.concatenate(flips) if flips else np.zeros(0, dtype=np.int64)
    runs = runs_between(joined, total=height * width)
    return compressed(runs, height=height, width=width)


def _moved(fifths: npt.NDArray[np.float64], left: int) -> list[float]:
    """Move a polygon in fifths of a pixel to the left, as pycocotools rounds back to them."""
    moved = fifths.copy()
    moved[::2] -= SCALE * left
    # It adds a half and cuts towards zero, which is down for positive numbers only.
    whole = np.where(moved < 0, moved - 0.7, moved)
    return [float(value) for value in whole / SCALE]


def as_segmentation(rle: Any) -> Segmentation:
    """Return pycocotools' own RLE dict with its string as text."""
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": rle["counts"].decode("ascii"),
    }


def label_masks(
    labels: npt.NDArray[Any], *, ignore: Collection[int] = ()
) -> dict[int, Segmentation]:
    """Split a label map into one mask per value, by increasing value.

    One pass over the pixels however many labels there are: a nuclei image has thousands.

    Args:
        labels: integers [H, W], original frame.
        ignore: values that are no mask.

    Raises:
        ValueError: the map is empty or too large, see `check_size`.
    """
    height, width = labels.shape
    check_size(height=height, width=width)
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends = np.append(starts[1:], flat.size)
    found = flat[starts].astype(np.int64)
    order = np.argsort(found, kind="stable")
    values, first = np.unique(found[order], return_index=True)
    masks = {}
    for value, of_value in zip(values.tolist(), np.split(order, first[1:]), strict=True):
        if value in ignore:
            continue
        edges = np.stack([starts[of_value], ends[of_value]], axis=1).ravel()
        runs = np.diff(edges, prepend=0, append=flat.size)
        masks[value] = compressed(runs[:-1] if runs[-1] == 0 else runs, height=height, width=width)
    return masks
