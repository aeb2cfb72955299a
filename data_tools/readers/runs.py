"""Run lengths of masks: from label maps, and checked before pycocotools sees them.

pycocotools trusts its input. Run lengths that add up to more than the image make its decoder
write past the end of its buffer, and so do a few runs of 2^24 pixels or more in its encoder: six
characters each fill the six it reserves and leave no room for the closing zero. That is a crash
much later, or silence. So whatever comes from a file is checked here first.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from data_tools.sa1b_format import Segmentation

MAX_SIDE = 65_535
"""A JPEG has no longer side, and the shards hold JPEGs."""
MAX_PIXELS = 3 * 2**24
"""50 megapixels. The encoder's fault needs at least four runs (for three, the 24 bytes that malloc
hands out at least are enough), and the first three, which are written as they are, 2^24 pixels
each; the second one pixel more, for its difference to the fourth to be that large."""

Ints = npt.NDArray[np.int64]


def run_lengths(counts: str | bytes) -> Ints:
    """The runs of a COCO compressed RLE, background first.

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
    values[negative] -= np.int64(1) << (5 * (places[ends][negative] + 1))
    runs = values.copy()
    runs[1::2] = np.cumsum(values[1::2])
    runs[2::2] = np.cumsum(values[2::2])
    return runs


def check_size(*, height: int, width: int) -> None:
    """Refuse a mask that no JPEG can have or that pycocotools cannot encode.

    Raises:
        ValueError: a side or the number of pixels is out of range.
    """
    if min(height, width) < 1 or max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise ValueError(
            f"a mask of {width} x {height} pixels: sides must be from 1 to {MAX_SIDE:,} "
            f"and their product at most {MAX_PIXELS:,}"
        )


def checked_rle(size: Sequence[int], counts: str | bytes | Sequence[int]) -> Segmentation:
    """A compressed RLE that pycocotools can read safely.

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
    """Plain runs that fill the image, as COCO compressed RLE."""
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return as_segmentation(rle)


def as_segmentation(rle: Any) -> Segmentation:
    """pycocotools' own RLE dict with its string as text."""
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": rle["counts"].decode("ascii"),
    }


def label_masks(
    labels: npt.NDArray[Any], *, ignore: Collection[int] = ()
) -> dict[int, Segmentation]:
    """One mask per value of a label map, by increasing value.

    One pass over the pixels however many labels there are: a nuclei image has thousands.

    Args:
        labels: integers [H, W], original frame.
        ignore: values that are no mask.

    Raises:
        ValueError: the map is empty or too large, see `check_size`.
    """
    height, width = labels.shape
    check_size(height=height, width=width)
    flat = labels.ravel(order="F").astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    values, first = np.unique(flat[starts][order], return_index=True)
    masks = {}
    for value, of_value in zip(values.tolist(), np.split(order, first[1:]), strict=True):
        if value in ignore:
            continue
        edges = np.stack([starts[of_value], ends[of_value]], axis=1).ravel()
        runs = np.diff(edges, prepend=0, append=flat.size)
        masks[value] = compressed(runs[:-1] if runs[-1] == 0 else runs, height=height, width=width)
    return masks
