"""Conversion of a stored picture to 8-bit RGB: bands, stretch, missing values, transparency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.raster import Pixels, Raster, thinned
from sam_train.data.photos.rule import PhotoRule, Taken

Rgb = npt.NDArray[np.uint8]

SAMPLE = 1 << 22
"""Pixels that percentiles are taken from: all up to this number, else every k-th."""
_ROWS = 512
_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The way one picture is shown; the same for all its parts."""

    bands: tuple[int, ...]
    """Indices: one, or three and more."""
    low: tuple[float, ...] = ()
    """The value shown black, for each of `bands`; empty if values are shown as they are."""
    high: tuple[float, ...] = ()
    nodata: tuple[float, ...] = ()
    opaque: float | None = None
    """The value of the transparency band where nothing shines through; None: no transparency."""
    taken: Taken

    @property
    def channels(self) -> int:
        """Channels of what is shown: 3, or one for each band where there are more."""
        return max(3, len(self.bands))


def plan(raster: Raster, rule: PhotoRule) -> Look:
    """Decide how a picture is shown, from its pixels.

    Raises:
        SkipImageError: it has no such bands, or its values cannot be shown.
    """
    if raster.dtype.kind not in "iuf":
        raise SkipImageError("values that are not plain numbers", f"{raster.dtype}")
    # Without repetition, in order: the file's own value may be among those of the rule.
    nodata = tuple(dict.fromkeys([*rule.nodata, *_named(raster)]))
    stretched = raster.is_deep and (not rule.windows or raster.dtype.kind == "f")
    plain = not (stretched or nodata or raster.alpha is not None)
    # A plain photo needs no look at its pixels, which saves reading them twice.
    values = np.empty((0, 0, raster.bands)) if plain else thinned(raster, most=SAMPLE)
    remarks = [*raster.remarks]
    opaque = _transparency(raster, values, remarks)
    bands = _bands(raster, rule, has_alpha=opaque is not None)
    colours = raster.bands - (opaque is not None)
    if list(bands) != list(range(colours)):
        shown = " ".join(str(band + 1) for band in bands)
        remarks.append(f"bands {shown} of {raster.bands} shown as red, green, blue")
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    chosen = values[..., list(bands)]
    missing = missing_values(chosen, nodata)
    if raster.is_deep:
        there = ~missing
        if opaque is not None:
            # Colours under full transparency are arbitrary, and often black.
            there &= (values[..., raster.alpha] > 0)[..., None]
        # From the thinned picture, for all its parts: tiles of one scene must match.
        low, high = _limits(raster, rule, chosen, there, bands)
        remarks.append(_how(rule))
    if missing.any():
        remarks.append("pixels without a value (NoData, NaN) are black")
    taken = Taken(
        stored=raster.stored,
        bands=tuple(band + 1 for band in bands),
        low=low,
        high=high,
        nodata=nodata,
        remarks=tuple(remarks),
    )
    return Look(bands=bands, low=low, high=high, nodata=nodata, opaque=opaque, taken=taken)


def _transparency(raster: Raster, values: Pixels, remarks: list[str]) -> float | None:
    """Return the value of full opacity, if the picture has transparency; add what was found."""
    if raster.alpha is None:
        return None
    alpha = values[..., raster.alpha]
    opaque = _opaque(alpha)
    if opaque is None:
        number = raster.alpha + 1
        remarks.append(f"band {number} is marked as transparency but is none: not blended")
    elif (alpha < opaque).any():
        remarks.append("transparent parts are white")
    return opaque


def _how(rule: PhotoRule) -> str:
    if rule.windows:
        pairs = " and ".join(
            f"{low:g} shown black and {high:g} white" for low, high in rule.windows
        )
        return f"more than 8 bits, {pairs}"
    low, high = rule.percentiles
    return f"more than 8 bits, stretched between the percentiles {low:g} and {high:g} of each photo"


def _named(raster: Raster) -> tuple[float, ...]:
    return () if raster.nodata is None or np.isnan(raster.nodata) else (raster.nodata,)


def _opaque(alpha: Pixels) -> float | None:
    """Find the value of a transparency band where nothing shines through; None if it is none.

    Infrared in the place of transparency takes all values. Transparency has its extreme value
    nearly everywhere where it is not 0. Only zeros are taken for a mistake: nothing would be seen.
    """
    whole = alpha.dtype.kind in "biu"
    # GDAL writes 255 into deeper files, too.
    candidates = (np.iinfo(alpha.dtype).max, 255) if whole else (1.0, 255.0, 65535.0)
    some = int((alpha > 0).sum())
    for value in candidates:
        # Half of what is not transparent at least; the rest may be soft edges.
        if some and 2 * int((alpha == value).sum()) >= some and not (alpha > value).any():
            return float(value)
    return None


def _bands(raster: Raster, rule: PhotoRule, *, has_alpha: bool) -> tuple[int, ...]:
    """Choose the bands to show: one index or three."""
    if rule.bands:
        if max(rule.bands) > raster.bands:
            raise SkipImageError("it lacks a band of --bands", f"it has {raster.bands}")
        chosen = [band - 1 for band in rule.bands]
    else:
        chosen = [band for band in range(raster.bands) if not (has_alpha and band == raster.alpha)]
    if len(chosen) == 2:
        # Magenta and green: where both are equal the picture is grey.
        return (chosen[0], chosen[1], chosen[0])
    # More than three were asked for by name, for a model with as many channels.
    return tuple(chosen if rule.bands else chosen[:3])


def missing_values(values: Pixels, nodata: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    """Mark what is no value: NaN, infinities and `nodata`, bool of the same shape.

    In 8-bit pictures a pixel is missing only if all its bands are: 255 is a frequent value.
    """
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for value in nodata:
        if values.dtype.kind == "f":
            # Files name their float32 value by more digits, or fewer, than it has.
            missing |= np.isclose(values, value, rtol=1e-5, atol=0)
        elif float(value).is_integer():
            missing |= values == int(value)
    if values.dtype == np.uint8:
        missing &= missing.all(axis=-1, keepdims=True)
    return missing


def _limits(
    raster: Raster,
    rule: PhotoRule,
    values: Pixels,
    there: npt.NDArray[np.bool_],
    bands: tuple[int, ...],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute black and white of each band [h, w, bands]; the same for all colours of a photo."""
    if rule.windows:
        if len(rule.windows) not in (1, len(bands)):
            raise SkipImageError(
                "its bands are not those of the window",
                f"{len(bands)} shown, {len(rule.windows)} pairs of numbers",
            )
        each = rule.windows * len(bands) if len(rule.windows) == 1 else rule.windows
        return tuple(low for low, _ in each), tuple(high for _, high in each)
    ends = [between(v, rule.percentiles) for v in _stretched_together(raster, values, there, bands)]
    if len(ends) == 1:
        ends *= len(bands)
    return tuple(low for low, _ in ends), tuple(high for _, high in ends)


def _stretched_together(
    raster: Raster, values: Pixels, there: npt.NDArray[np.bool_], bands: tuple[int, ...]
) -> list[Pixels]:
    """Return the values of all bands of a colour photo as one array, else those of each band."""
    if raster.is_colour and max(bands) < 3:
        # Each colour on its own would take the colour out of a meadow.
        return [values[there]]
    return [values[..., k][there[..., k]] for k in range(len(bands))]


def shown_values(raster: Raster, rule: PhotoRule, *, most: int) -> list[Pixels]:
    """Return the values [n] that a stretch is taken from, of at most about `most` pixels.

    Returns:
        One array for all colours of a photo, or one for each band shown; none of an 8-bit picture.

    Raises:
        SkipImageError: as `plan`.
    """
    if raster.dtype.kind not in "iuf":
        raise SkipImageError("values that are not plain numbers", f"{raster.dtype}")
    if not raster.is_deep:
        return []
    values = thinned(raster, most=most)
    opaque = _transparency(raster, values, [])
    bands = _bands(raster, rule, has_alpha=opaque is not None)
    chosen = values[..., list(bands)]
    there = ~missing_values(chosen, (*rule.nodata, *_named(raster)))
    if opaque is not None:
        there &= (values[..., raster.alpha] > 0)[..., None]
    return _stretched_together(raster, chosen, there, bands)


def between(values: Pixels, percentiles: tuple[float, float]) -> tuple[float, float]:
    """Return the values at two percentiles, the upper rounded down, the lower up, so that one hot
    pixel is harmless in the smallest photo; if they are the same value, the extremes."""
    if not values.size:
        return 0.0, 0.0
    low = int(np.ceil(percentiles[0] / 100 * (values.size - 1)))
    high = max(low, int(np.floor(percentiles[1] / 100 * (values.size - 1))))
    parted = np.partition(values, (low, high))
    if parted[low] == parted[high]:
        return float(values.min()), float(values.max())
    return float(parted[low]), float(parted[high])


def show(
    values: Pixels, look: Look, *, alpha: int | None = None, premultiplied: bool = False
) -> Rgb:
    """Show pixels [h, w, bands] of a picture as uint8 [h, w, 3]; see `plan`."""
    chosen = values[..., list(look.bands)]
    missing = missing_values(chosen, look.nodata)
    shown = chosen
    if look.low:
        # float32 holds every 16-bit number exactly, and takes half the memory.
        kind = np.float32 if values.dtype.itemsize <= 2 else np.float64
        low = np.array(look.low, dtype=np.float64)
        # One value everywhere: the smallest number instead of a division by zero.
        span = np.maximum(np.array(look.high, dtype=np.float64) - low, np.finfo(np.float64).tiny)
        with np.errstate(over="ignore", invalid="ignore"):
            # NaN is replaced before the arithmetic, since casting it to uint8 is undefined.
            grey = (np.where(missing, low, chosen).astype(kind) - low.astype(kind)) / span
            shown = (np.clip(grey, 0.0, 1.0) * 255.0).round().astype(np.uint8)
    if missing.any():
        shown = np.where(missing, 0, shown).astype(np.uint8)
    shape = (*shown.shape[:2], look.channels)
    rgb = np.ascontiguousarray(np.broadcast_to(shown, shape), dtype=np.uint8)
    if alpha is None or look.opaque is None or look.channels > 3:
        return rgb
    # `opaque` may be 1, 255 or 65535, whatever the depth of the file.
    scaled: npt.NDArray[Any] = values[..., alpha].astype(np.float64) * (255.0 / look.opaque)
    return _on_white(rgb, scaled.clip(0, 255).round().astype(np.uint8), premultiplied)


def _on_white(rgb: Rgb, alpha: Rgb, premultiplied: bool) -> Rgb:
    if premultiplied:
        # Premultiplied colours already lack their share of white, which is only added.
        lightened: Pixels = rgb.astype(np.uint16) + (255 - alpha)[..., None]
        return np.asarray(np.minimum(lightened, 255), dtype=np.uint8)
    layers = Image.fromarray(np.dstack([rgb, alpha]))
    white = Image.new("RGBA", layers.size, "white")
    return np.asarray(Image.alpha_composite(white, layers).convert("RGB"))


def show_rows(raster: Raster, look: Look, top: int, bottom: int) -> Rgb:
    """Read and show some rows of a picture: uint8 [bottom - top, W, channels]."""
    stored = raster.rows(top, bottom)
    shown = np.empty((bottom - top, raster.width, look.channels), dtype=np.uint8)
    # Some rows at a time: floats take eight times the memory.
    step = max(1, _PIXELS // raster.width)
    for row in range(0, bottom - top, step):
        few = stored[row : row + step]
        shown[row : row + step] = show(
            few, look, alpha=raster.alpha, premultiplied=raster.premultiplied
        )
    return shown


def show_array(pixels: Pixels, rule: PhotoRule) -> Rgb:
    """Show a picture in memory, [H, W] or [H, W, bands] of any depth: uint8 [H, W, channels].

    Raises:
        SkipImageError: as `plan`; or it has no such shape.
    """
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise SkipImageError("no picture", f"an array of shape {list(pixels.shape)}")
    bands = pixels if pixels.ndim == 3 else pixels[..., None]
    raster = Raster(
        height=bands.shape[0],
        width=bands.shape[1],
        bands=bands.shape[2],
        dtype=bands.dtype.newbyteorder("="),
        rows=lambda top, bottom: bands[top:bottom],
        is_colour=bands.shape[2] == 3,
    )
    return show_all(raster, plan(raster, rule))


def show_all(raster: Raster, look: Look) -> Rgb:
    """Read and show a whole picture, uint8 [H, W, channels], with little memory beside it."""
    whole = np.empty((raster.height, raster.width, look.channels), dtype=np.uint8)
    for top in range(0, raster.height, _ROWS):
        bottom = min(top + _ROWS, raster.height)
        whole[top:bottom] = show_rows(raster, look, top, bottom)
    return whole
