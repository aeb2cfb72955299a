"""The places of a scene's tiles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A tile's place in its scene, in pixels; the last column and row lie outside."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TileGrid:
    """The tiles that photos are cut into."""

    size: int
    """Pixels of a tile's side."""
    overlap: int
    """Pixels that neighbours share: what is no larger is whole in one tile at least."""


def starts(length: int, *, size: int, overlap: int) -> list[int]:
    """Return where tiles of a side begin; the last one ends with the scene and overlaps more."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def window_rows(*, height: int, width: int, size: int, overlap: int) -> list[list[Window]]:
    """Return the tiles of a scene, row by row; one that is smaller than a tile has one."""
    return [
        [
            Window(x=x, y=y, width=min(size, width), height=min(size, height))
            for x in starts(width, size=size, overlap=overlap)
        ]
        for y in starts(height, size=size, overlap=overlap)
    ]
