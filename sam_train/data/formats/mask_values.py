"""Tell from its values what a mask file is: one object, a number for each, or no mask at all.

A label map has flat areas of one value, and steps of any height between them. Where edges were
softened (resized with a filter, drawn with smoothing, once a JPEG), pixels lie between the values
beside them. *Loose* pixels, which are in no 2 x 2 block of one value, show that. In a label map
they are corners and hairlines, and equal the largest or smallest value around them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.mask_files import MAX_LABELS, Page, visible

Kind = Literal["few", "labels", "soft", "softened labels", "photo"]
"""few: at most two values. soft: black and white with values between. The last two are no masks."""

SAMPLED_PIXELS = 60_000
"""Loose pixels that are looked at; a photo has millions."""
BETWEEN_SHARE = 0.25
"""Softened edges begin here: 0.85 to 1 of loose pixels lie between after a filter, 0.3 to 0.5 after
a JPEG. In label maps it is under 0.1 and, where hundreds of tiny objects touch, up to 0.4."""
LOOSE_VALUES = 0.5
"""Softened edges begin here, too: nearly all values between stand mostly in loose pixels. In label
maps nearly none do, but where each object is a hairline; and those lie between no others."""
END = 0.2
"""A value is near an end of the range within this share of it."""
PHOTO_SHARE = 0.5
"""More pixels than this away from both ends are a photo, a depth map or the like."""
GREY_SPREAD = 16
"""Channels of a grey picture differ by no more where a JPEG was made of it (of 255)."""
KNOWN_VALUES = 512
"""Distinct values that a look keeps."""

Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A page of a mask file as its values show it."""

    kind: Kind
    values: tuple[int, ...]
    """The distinct values, lowest first, of a page that is no colour map; at most KNOWN_VALUES."""
    labels: Pixels
    """[H, W] or [H, W, channels]: what numbers the objects, as stored."""
    brightness: Pixels
    """[H, W]: what one object is brightest in (distance from the ground, for a coloured one)."""
    colour: bool = False
    """True if it has colours."""
    cutout: bool = False
    """True if opacity is the mask."""
    lossy: bool = False
    """The page's `lossy`."""

    @property
    def deep(self) -> bool:
        """True if the values are greys that a person sees as black and white."""
        return self.cutout or self.colour or bool(self.brightness.max(initial=0) >= 128)

    @property
    def near_ends(self) -> bool:
        """True if every value is close to the darkest or the brightest, far from each other."""
        share = _normalised(self.brightness)
        return self.deep and not bool(((share > END) & (share < 1 - END)).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edges:
    """The ways in which the values of a page meet."""

    between: float
    """Share of loose pixels that lie between two of their neighbours."""
    loose_values: float
    """Share of the values, without the first and last, that stand mostly in loose pixels."""
    small_steps: float
    """Share of neighbours of other value that differ by a 200th of the range or less."""


def look(page: Page) -> Look:
    """Tell what a page is from its values alone."""
    pixels, cutout = _without_alpha(page)
    # NaN compares unequal to itself, so it would never be in a flat area.
    pixels = np.nan_to_num(pixels) if np.issubdtype(pixels.dtype, np.floating) else pixels
    # Three equal channels are a grey picture that was saved as colour.
    grey = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
    codes = pixels if pixels.ndim == 2 else (pixels[..., 0] if grey else _packed(pixels))
    values = _distinct(codes)
    found = Look(
        kind="few",
        values=tuple(int(v) for v in values[:KNOWN_VALUES]) if grey else (),
        labels=pixels,
        brightness=codes if grey else _distance(pixels, codes),
        colour=not grey,
        cutout=cutout,
        lossy=page.lossy,
    )
    return _with_kind(found, pixels if not grey else codes, codes, values)


def _with_kind(found: Look, pixels: Pixels, codes: Pixels, values: Pixels) -> Look:
    # Two values have none between them, so there is nothing soft to measure.
    if values.size <= 2 and _whole(values):
        return found
    edges = _edges(pixels, codes, values)
    softened = (
        (edges.between >= BETWEEN_SHARE or _two_clusters(found, values))
        and edges.loose_values >= LOOSE_VALUES
        # Three or four values below 128 may be classes that lie around each other.
        and (values.size >= 3 if found.deep else values.size >= 8)
    )
    # A smooth ramp: a depth map or a probability, whose neighbours differ by very little.
    ramp = values.size > 64 and edges.small_steps > 0.9
    # Whole numbers without soft edges are labels, however many there are.
    if _whole(values) and not softened and not ramp:
        return replace(found, kind="labels" if values.size <= MAX_LABELS else "photo")
    brightness = found.brightness
    # A JPEG gives every grey a little colour.
    if found.colour and _nearly_grey(pixels):
        brightness = np.asarray(pixels).mean(axis=-1)
        found = replace(found, brightness=brightness, colour=False)
    return replace(found, kind=_softened_kind(found, pixels, whole=_whole(values)))


def _two_clusters(found: Look, values: Pixels) -> bool:
    """Tell whether several values lie close to white and the rest close to black: no numbering
    leaves such a gap. (One white value beside small numbers is the border of a class map.)"""
    return found.near_ends and not found.colour and int((values > values[-1] * (1 - END)).sum()) > 1


def _softened_kind(found: Look, pixels: Pixels, *, whole: bool) -> Kind:
    """Tell a softened black-and-white mask from softened labels and from a photo."""
    share = _normalised(found.brightness)
    middle = (share > END) & (share < 1 - END)
    # Small numbers that were interpolated: labels, resized with a filter.
    if whole and not found.deep:
        return "softened labels"
    # Edges are thin; where most pixels are between the ends it is no mask.
    if middle.mean() > PHOTO_SHARE:
        return "photo"
    if found.colour and not _one_colour(pixels[share >= 1 - END]):
        return "softened labels"
    if _has_plateaus(share, middle):
        return "softened labels"
    return "soft"


def _has_plateaus(share: Pixels, middle: Pixels) -> bool:
    """Tell whether values in the middle gather in flat areas, as labels between others do."""
    # Without the picture's border, where a pixel lacks neighbours.
    places = np.flatnonzero(middle[1:-1, 1:-1])
    places = places[:: -(-places.size // SAMPLED_PIXELS) or 1]
    if places.size == 0:
        return False
    rows, columns = (k + 1 for k in np.divmod(places, share.shape[1] - 2))
    values = share[rows, columns]
    around = [share[rows + j, columns + i] for j, i in ((0, -1), (0, 1), (-1, 0), (1, 0))]
    # Four hundredths of the range: what a JPEG does to a flat area.
    flat = values[np.max([np.abs(values - other) for other in around], axis=0) <= 0.04]
    if flat.size < 0.5 * values.size:
        return False
    histogram = np.sort(np.histogram(flat, bins=30, range=(END, 1 - END))[0])
    # Six of thirty bins: a ramp fills all of them alike, labels a few.
    return bool(histogram[-6:].sum() > 0.7 * flat.size)


def _edges(pixels: Pixels, codes: Pixels, values: Pixels) -> _Edges:
    """Measure how values meet, at a sample of the loose pixels."""
    height, width = codes.shape
    across, down = codes[:, 1:] == codes[:, :-1], codes[1:] == codes[:-1]
    # Two rows equal across and one column equal down: all four pixels are.
    block = across[1:] & across[:-1] & down[:, 1:]
    loose = np.ones((height, width), dtype=bool)
    for y in (0, 1):
        for x in (0, 1):
            # Each pixel is in four blocks, of which one of a single value is enough.
            loose[y : height - 1 + y, x : width - 1 + x] &= ~block
    places = np.flatnonzero(loose)
    places = places[:: -(-places.size // SAMPLED_PIXELS) or 1]
    if places.size == 0 or min(height, width) < 3:
        return _Edges(between=0.0, loose_values=0.0, small_steps=0.0)
    rows, columns = np.divmod(places, width)
    inside = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    rows, columns = rows[inside], columns[inside]
    around = np.stack([pixels[rows + j, columns + i] for j in (-1, 0, 1) for i in (-1, 0, 1)])
    middle = around[4]
    between = (middle > around.min(axis=0)) & (middle < around.max(axis=0))
    # Of a colour, one channel between its neighbours is enough.
    if between.ndim == 2:
        between = between.any(axis=-1)
    return _Edges(
        between=float(between.mean()) if between.size else 0.0,
        loose_values=_loose_values(codes, loose, values),
        small_steps=_small_steps(codes, values),
    )


def _loose_values(codes: Pixels, loose: Pixels, values: Pixels) -> float:
    inner = values[1:-1]
    if values.size > MAX_LABELS or inner.size == 0:
        return 1.0
    if codes.size > 16 * SAMPLED_PIXELS:
        # Every so many rows are enough to see where a value stands.
        step = codes.size // (16 * SAMPLED_PIXELS) + 1
        codes, loose = codes[::step], loose[::step]
    # `bincount` needs small numbers, and codes may be colours or floats.
    places = np.searchsorted(values, codes.ravel())
    total = np.bincount(places, minlength=values.size)[1:-1]
    free = np.bincount(places, weights=loose.ravel(), minlength=values.size)[1:-1]
    seen = total > 0
    return float((free[seen] > 0.5 * total[seen]).mean()) if seen.any() else 0.0


def _small_steps(codes: Pixels, values: Pixels) -> float:
    step = codes[:: max(1, codes.shape[0] // 200)].astype(np.float64)
    steps = np.abs(np.diff(step, axis=1))
    steps = steps[steps > 0]
    limit = max(float(values[-1]) - float(values[0]), 1e-12) / 200
    whole = _whole(values)
    return float((steps <= (max(limit, 1.0) if whole else limit)).mean()) if steps.size else 0.0


def _distinct(codes: Pixels) -> Pixels:
    """Return the distinct values, lowest first, by the beginnings of runs: far fewer than pixels
    in a mask."""
    flat = codes.ravel()
    # A value at the start of each run is there, and runs are far fewer than pixels.
    starts = np.concatenate([[True], flat[1:] != flat[:-1]])
    return np.asarray(np.unique(flat[starts]))


def _without_alpha(page: Page) -> tuple[Pixels, bool]:
    """Return the pixels that matter, and whether they are the opacity."""
    pixels = page.pixels
    if pixels.ndim == 3 and page.alpha:
        alpha, colours = pixels[..., -1], pixels[..., :-1]
        opaque = alpha > 0
        # An opacity that is the same everywhere says nothing.
        if opaque.any() and (alpha != alpha.flat[0]).any():
            shown = _packed(colours) if colours.shape[-1] > 1 else colours[..., 0]
            seen = np.unique(shown[opaque])
            # A photo has about as many colours as pixels, a drawing a few.
            many = seen.size > min(KNOWN_VALUES, max(16, opaque.sum() / 4))
            if seen.size == 1 or many:
                return alpha, True
        pixels = visible(pixels)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return pixels, False


def _packed(pixels: Pixels) -> npt.NDArray[np.int64]:
    codes = np.zeros(pixels.shape[:2], dtype=np.int64)
    for channel in np.moveaxis(pixels, -1, 0):
        codes = (codes << 8) | channel.astype(np.int64)
    return codes


def _distance(pixels: Pixels, codes: Pixels) -> npt.NDArray[np.int64]:
    """Return how far each colour is from the ground: black, or else the commonest colour."""
    values, counts = np.unique(codes, return_counts=True)
    # Black by custom wherever it occurs at all.
    ground = 0 if values[0] == 0 else int(values[counts.argmax()])
    channels = [(ground >> shift) & 0xFF for shift in range(8 * (pixels.shape[-1] - 1), -1, -8)]
    return np.asarray(np.abs(pixels.astype(np.int64) - np.array(channels)).max(axis=-1))


def _nearly_grey(pixels: Pixels) -> bool:
    highest = pixels.max(axis=-1).astype(np.int64)
    spread = (highest - pixels.min(axis=-1))[highest > 64]
    return bool(spread.size and (spread <= GREY_SPREAD).mean() > 0.98)


def _one_colour(colours: Pixels) -> bool:
    # Not the extremes: soft edges of a coloured object have a few odd colours.
    low, high = np.percentile(colours, (3, 97), axis=0)
    return bool((high - low).max() <= 60)


def _normalised(brightness: Pixels) -> npt.NDArray[np.float32]:
    """Return the brightness from 0, its darkest, to 1, its brightest."""
    low, high = float(brightness.min(initial=0)), float(brightness.max(initial=0))
    return ((brightness.astype(np.float32) - low) / max(high - low, 1e-12)).astype(np.float32)


def _whole(values: Pixels) -> bool:
    return not np.issubdtype(values.dtype, np.floating) or bool((values == np.rint(values)).all())
