"""The place on Earth of a scene and its tiles, from GeoTIFF tags or a world file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam_train.data.photos.files import locate
from sam_train.data.photos.formats import TIFF_SUFFIXES
from sam_train.data.photos.tiff import open_tiff
from sam_train.data.tiles.grid import Window

_SCALE, _TIEPOINT, _MATRIX, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_PIXEL_IS_POINT = 2
_UNDEFINED = (0, 32767)


@dataclass(frozen=True, slots=True, kw_only=True)
class Georeference:
    """An affine map from pixels to a coordinate system."""

    transform: tuple[float, float, float, float, float, float]
    """GDAL's order: x of the upper left corner, x a column, x a row, y of the corner, y a column,
    y a row."""
    crs: str = ""
    """`EPSG:n`, or the text of a .prj file; empty if it is not known."""

    def of(self, window: Window) -> tuple[float, float, float, float, float, float]:
        """Return the transform of a tile."""
        x, dx, rx, y, ry, dy = self.transform
        return (
            x + window.x * dx + window.y * rx,
            dx,
            rx,
            y + window.x * ry + window.y * dy,
            ry,
            dy,
        )


def georeference(photo: Path) -> Georeference | None:
    """Return where a photo lies, from its tags, else from the world file beside it, else None."""
    file = locate(photo).file
    try:
        found = _of_tags(file) if file.suffix.lower() in TIFF_SUFFIXES else None
    except Exception:  # no TIFF after all, or damaged tags: its picture says so, if it matters
        found = None
    return found or _of_world_file(file)


def _of_tags(file: Path) -> Georeference | None:
    with open_tiff(file) as opened:
        page: Any = opened.pages[0]
        tags = {code: page.tags.valueof(code) for code in (_SCALE, _TIEPOINT, _MATRIX, _KEYS)}
    keys = _geo_keys(tags[_KEYS] or ())
    if tags[_MATRIX] is not None:
        m = tags[_MATRIX]
        transform = (m[3], m[0], m[1], m[7], m[4], m[5])
    elif tags[_SCALE] is not None and tags[_TIEPOINT] is not None:
        (sx, sy, _), (column, row, _, x, y, _) = tags[_SCALE][:3], tags[_TIEPOINT][:6]
        transform = (x - column * sx, sx, 0.0, y + row * sy, 0.0, -sy)
    else:
        return None
    if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:
        x, dx, rx, y, ry, dy = transform
        transform = (x - (dx + rx) / 2, dx, rx, y - (ry + dy) / 2, ry, dy)
    code = next((k for k in (keys.get(_PROJECTED), keys.get(_GEOGRAPHIC)) if k), 0)
    crs = "" if code in _UNDEFINED else f"EPSG:{code}"
    x, dx, rx, y, ry, dy = map(float, transform)
    return Georeference(transform=(x, dx, rx, y, ry, dy), crs=crs)


def _geo_keys(directory: Any) -> dict[int, int]:
    """Return the numbers of a GeoKeyDirectory that stand in it themselves."""
    values = list(directory)
    entries = [values[k : k + 4] for k in range(4, len(values) - 3, 4)]
    return {int(key): int(value) for key, place, _, value in entries if place == 0}


def _of_world_file(file: Path) -> Georeference | None:
    ending = file.suffix[1:]
    names = [f"{ending[:1]}{ending[-1:]}w", f"{ending}w", "wld"]
    for name in names:
        world = file.with_suffix(f".{name}")
        if not world.is_file():
            continue
        try:
            dx, ry, rx, dy, x, y = (float(line) for line in world.read_text().split()[:6])
        except (ValueError, OSError):
            return None
        prj = file.with_suffix(".prj")
        crs = prj.read_text(errors="replace").strip() if prj.is_file() else ""
        # A world file names the middle of the first pixel.
        corner = (x - (dx + rx) / 2, y - (ry + dy) / 2)
        return Georeference(transform=(corner[0], dx, rx, corner[1], ry, dy), crs=crs)
    return None
