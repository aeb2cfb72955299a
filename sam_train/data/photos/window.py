"""The window of a data set: the values that all of its photos beyond 8 bits show black and white.

Were each photo stretched by itself, the same tissue or dye would have another brightness in every
photo. The window is found once, from a sample of the photos that names and order alone decide, and
is recorded with the model, whose input it belongs to.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import MAX_SCENE, opened
from sam_train.data.photos.formats import JPEG_SUFFIXES
from sam_train.data.photos.raster import Pixels
from sam_train.data.photos.rule import PhotoRule
from sam_train.data.photos.show import between, shown_values

log = logging.getLogger(__name__)

PHOTOS = 32
"""Photos that are looked at; they lie evenly over the listing."""
_PIXELS = 1 << 16
"""Pixels of each: a percentile needs no more."""


def find_window(photos: Sequence[Path], *, rule: PhotoRule | None = None) -> list[float]:
    """Find the window of a data set's photos, as `rule.rule_of` takes it; [] where all are 8-bit.

    Args:
        photos: files, or pages of files; a fixed part of them is looked at.
        rule: its percentiles, bands and missing values are used.
    """
    rule = rule or PhotoRule()
    # By their endings: no JPEG that is read has more than 8 bits, and most data sets are JPEGs.
    deep = [photo for photo in photos if photo.suffix.lower() not in JPEG_SUFFIXES]
    places = np.linspace(0, len(deep) - 1, min(PHOTOS, len(deep))).round().astype(np.int64)
    found: list[list[Pixels]] = []
    for place in np.unique(places).tolist():
        try:
            with opened(deep[place], most_pixels=MAX_SCENE, longest=MAX_SCENE) as each:
                values = shown_values(each.raster, rule, most=_PIXELS)
        except SkipImageError as error:  # counted where it is read for training
            log.debug("%s: %s", deep[place], error)
            continue
        if values:
            found.append(values)
    if not found:
        return []
    # Photos of different kinds share one window for all bands.
    if len({len(values) for values in found}) > 1:
        found = [[np.concatenate(values)] for values in found]
    pooled = [np.concatenate(band).astype(np.float64) for band in zip(*found, strict=True)]
    ends = [between(band, rule.percentiles) for band in pooled if band.size]
    # A band without a single value in the sample cannot be placed: one window for all.
    if len(ends) < len(pooled):
        ends = [between(np.concatenate(pooled), rule.percentiles)]
    return [value for pair in ends for value in pair]
