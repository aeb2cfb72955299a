"""The lists beside the tiles, and the closing lines.

sources.tsv   image_id and name of every tile: the scene, and where in it
tiles.tsv     the same with the tile's place in pixels and, of a georeferenced scene, on Earth
objects.tsv   which object each mask is a part of, and how much of it
photos.tsv    what was done to every scene
skipped.tsv   every scene and object left out, and why
convert.json  the settings, a digest of the input files, and the counts
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.convert_output import (
    PHOTOS,
    SKIPPED,
    SOURCES,
    STAMP,
    TILE_LISTS,
    write_photos,
    write_tsv,
)
from data_tools.tiles.cut import Tile, TileConfig, TileTally
from sam_train.data.left_out import NAMES_SHOWN, Skip, reasons_of
from sam_train.runtime.text import count


def closing_lines(tally: TileTally, config: TileConfig) -> Iterator[str]:
    """Say what was read, left out and cut."""
    remarks = (
        Skip(kind="photo", reason=remark, name=name)
        for name, taken in zip(tally.scenes, tally.photos, strict=True)
        for remark in taken.remarks
    )
    yield from (reason.line("read") for reason in reasons_of(remarks))
    yield from (reason.line("skipped") for reason in reasons_of(tally.skips))
    if tally.small_parts:
        yield (
            f"left out {count(tally.small_parts, 'part')} of objects: below "
            f"--min-visible {config.min_visible:g} or --min-area"
        )
    if tally.never_whole:
        shown = "; ".join(tally.never_whole[:NAMES_SHOWN])
        rest = len(tally.never_whole) - NAMES_SHOWN
        yield (
            f"{count(len(tally.never_whole), 'object')} whole in no tile, larger than "
            f"--overlap {config.overlap}: {shown}{f'; and {rest} more' if rest > 0 else ''}"
        )
    verb = "kept" if config.keeps_empty else "left out"
    yield (
        f"{count(len(tally.scenes), 'scene')} with {count(tally.objects, 'object')}"
        f" cut into {count(len(tally.tiles), 'tile')} with "
        f"{count(len(tally.parts), 'mask')}; {verb} "
        f"{count(tally.empty, 'tile')} without a mask"
    )


def write_tile_lists(
    folder: Path, tally: TileTally, config: TileConfig, mark: dict[str, Any]
) -> list[str]:
    """Write everything beside the shards, the stamp last; returns the closing lines."""
    lines = list(closing_lines(tally, config))
    tiles, objects = TILE_LISTS
    write_tsv(folder / SOURCES, ("image_id", "file_name"), [_source(t) for t in tally.tiles])
    header = ("image_id", "scene", "x", "y", "width", "height", "masks", "geotransform", "crs")
    write_tsv(folder / tiles, header, [_row(tile) for tile in tally.tiles])
    write_tsv(
        folder / objects,
        ("image_id", "mask_id", "object", "source_id", "visible"),
        [(p.image_id, p.mask_id, p.name, p.source_id, f"{p.visible:.4g}") for p in tally.parts],
    )
    numbered = list(enumerate(tally.scenes, start=1))
    write_photos(folder / PHOTOS, numbered, tally.photos, number="scene")
    rows = [(skip.kind, skip.reason, skip.name) for skip in tally.skips]
    write_tsv(folder / SKIPPED, ("kind", "reason", "name"), rows)
    stamp = {
        **mark,
        "scenes": len(tally.scenes),
        "tiles": len(tally.tiles),
        "masks": len(tally.parts),
        "empty_tiles": tally.empty,
        "lines": lines,
    }
    (folder / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
    return lines


def finished_lines(folder: Path, mark: dict[str, Any]) -> list[str] | None:
    """Return the closing lines of an earlier run if the folder holds exactly these tiles."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
        if {key: stamp[key] for key in mark} != mark:
            return None
        return [str(line) for line in stamp["lines"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _source(tile: Tile) -> tuple[int, str]:
    return tile.image_id, f"{tile.scene}: x {tile.window.x}, y {tile.window.y}"


def _row(tile: Tile) -> tuple[object, ...]:
    window = tile.window
    place = " ".join(f"{value:.15g}" for value in tile.transform)
    corner = (window.x, window.y, window.width, window.height)
    return (tile.image_id, tile.scene, *corner, tile.masks, place, tile.crs)
