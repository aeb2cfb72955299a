"""The rule by which photos are shown, and the treatment of one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sam_train.errors import UserError

PERCENTILES = (0.5, 99.5)
"""Black and white of photos beyond 8 bits. Half a percent is far more than a sensor's hot pixels,
and little enough that what is bright and small still differs from what is bright."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRule:
    """The way photos become 8-bit RGB; the same for all photos of a data set."""

    bands: tuple[int, ...] = ()
    """Bands to show, from 1: three for red, green, blue; two for magenta and green; one for grey;
    more for a model with as many channels. Empty: the first three, both of two, or the only one."""
    nodata: tuple[float, ...] = ()
    """Values that stand for nothing, beside NaN and the value that a GeoTIFF names."""
    percentiles: tuple[float, float] = PERCENTILES
    """Percentiles of each photo beyond 8 bits that become black and white."""
    windows: tuple[tuple[float, float], ...] = ()
    """Values that become black and white in all photos beyond 8 bits: one pair, or one for each
    band shown. Empty: the percentiles of each photo."""


def rule_of(window: Sequence[float], *, bands: Sequence[int] = ()) -> PhotoRule:
    """Return the rule that `model.window` and `model.bands` stand for.

    Args:
        window: low and high; or low and high of the first band, then of the second, and so on.
            Empty: the percentiles of each photo.
        bands: from 1; empty: the first three.

    Raises:
        UserError: the numbers are no pairs, or a low is not below its high; or no bands.
    """
    values = [float(value) for value in window]
    pairs = tuple(zip(values[::2], values[1::2], strict=False))
    # Equal ends are a constant data set, which is a step from black to white.
    if len(values) % 2 or any(not (-math.inf < a <= b < math.inf) for a, b in pairs):
        raise UserError(
            f"model.window={values}: give [low, high] with low below high, or such a pair for each "
            "band shown"
        )
    if any(band < 1 for band in bands):
        raise UserError(f"model.bands={list(bands)}: bands are counted from 1")
    return PhotoRule(windows=pairs, bands=tuple(bands))


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The treatment of one photo: a row of `photos.tsv`."""

    stored: str
    """Type and number of its bands, as `uint16 x 4`."""
    bands: tuple[int, ...] = ()
    """The bands shown, from 1."""
    low: tuple[float, ...] = ()
    """The value that became black, for each band shown; empty where nothing was stretched."""
    high: tuple[float, ...] = ()
    nodata: tuple[float, ...] = ()
    copied: bool = False
    """The file's bytes are in the shard as they were."""
    remarks: tuple[str, ...] = ()
    """Remarks for people, in words that are the same for all photos of a kind."""
