"""Counts of corresponding boundary pixels of one image and its ground truths, by threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_train.errors import UserError
from sam_train.eval.tasks.edges.correspondence import correspond_sequence, reach
from sam_train.eval.tasks.edges.readers import (
    BoundaryMaps,
    Pair,
    read_boundary_maps,
    read_ground_truth,
)
from sam_train.eval.tasks.edges.thinning import Mask, thin


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCounts:
    """Pixels of an image per threshold, which add up to those of the dataset."""

    name: str
    thresholds: list[float]
    """[T], ascending."""
    truth_matched: list[int]
    """[T]: ground-truth pixels with a partner, summed over the people who drew."""
    truth: list[int]
    """[T]: ground-truth pixels, summed over the people; the same at every threshold."""
    edges_matched: list[int]
    """[T]: pixels of the thinned map with a partner in anybody's drawing."""
    edges: list[int]
    """[T]: pixels of the thinned map."""


def count_image(pair: Pair, *, thresholds: int, max_distance: float) -> ImageCounts:
    """Read, threshold, thin and match one image.

    Args:
        pair: its two files.
        thresholds: their number between 0 and 1; a file of segmentations brings its own.
        max_distance: fraction of the image's diagonal.

    Raises:
        UserError: a file cannot be read, or their sizes differ.
    """
    maps = read_boundary_maps(pair.edges, thresholds=thresholds)
    truths = read_ground_truth(pair.truth)
    for mask in maps.masks:
        if mask.shape != truths[0].shape:
            raise UserError(
                f"{pair.edges} is {mask.shape[1]}x{mask.shape[0]}, its ground truth "
                f"{truths[0].shape[1]}x{truths[0].shape[0]}; maps must have the photo's size"
            )
    return count_maps(pair.name, maps, truths, max_distance=max_distance)


def count_maps(
    name: str, maps: BoundaryMaps, truths: list[Mask], *, max_distance: float
) -> ImageCounts:
    """Thin and match boundary maps that are already in memory.

    Args:
        name: of the image.
        maps: T maps, bool [H, W].
        truths: bool [H, W] each, one per person.
        max_distance: fraction of the image's diagonal.
    """
    pixels = _thinned_pixels(maps.masks)
    ends = np.cumsum([0, *(lines.size for lines in pixels)])
    matched = np.zeros(ends[-1], dtype=np.bool_)
    truth_matched = np.zeros(len(pixels), dtype=np.int64)
    distance = reach((truths[0].shape[0], truths[0].shape[1]), max_distance)
    for person, truth in enumerate(truths):
        # A seed for each person, or chance would prefer the same pixels in every drawing.
        matches = correspond_sequence(pixels, truth, max_distance=distance, seed=person)
        truth_matched += matches.pairs
        matched |= matches.matched
    # A difference of running sums counts the matched pixels of each map.
    before = np.concatenate([[0], np.cumsum(matched)])
    total = sum(int(truth.sum()) for truth in truths)
    return ImageCounts(
        name=name,
        thresholds=maps.thresholds.tolist(),
        truth_matched=truth_matched.tolist(),
        # At every threshold, although it is one number: the official files repeat it, too.
        truth=[total] * len(pixels),
        edges_matched=(before[ends[1:]] - before[ends[:-1]]).tolist(),
        edges=np.diff(ends).tolist(),
    )


def check_same_thresholds(images: Sequence[ImageCounts]) -> None:
    """Refuse counts that cannot be added up threshold by threshold.

    Raises:
        UserError: they have not all the same number of thresholds.
    """
    for image in images:
        if image.thresholds != images[0].thresholds:
            raise UserError(
                f"{image.name} has {len(image.thresholds)} boundary maps, {images[0].name} has "
                f"{len(images[0].thresholds)}: files with segs need equally many, and no others "
                "beside them"
            )


def _thinned_pixels(masks: list[Mask]) -> list[npt.NDArray[np.int64]]:
    """Return flat indices of the thinned maps; equal maps in a row are thinned once."""
    pixels: list[npt.NDArray[np.int64]] = []
    previous: Mask | None = None
    for mask in masks:
        if previous is not None and np.array_equal(mask, previous):
            pixels.append(pixels[-1])
        else:
            pixels.append(np.flatnonzero(thin(mask)))
        previous = mask
    return pixels
