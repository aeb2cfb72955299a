"""A data set of any format as overlapping tiles of its photos, cut when they are read.

The rules are those of `python -m data_tools.tile`, which writes the same tiles to shards: an object
at a border is cut there, slivers are left out, and a tile without an object is none.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from sam_train.data.formats.records import MasksRead, Record
from sam_train.data.formats.source import FormatPart, format_part, open_listing
from sam_train.data.formats.spec import DatasetSpec
from sam_train.data.formats.take import fitting_masks
from sam_train.data.left_out import Skip, SkipImageError, reasons_of
from sam_train.data.photos.files import MAX_SCENE, opened
from sam_train.data.photos.raster import Raster, turned
from sam_train.data.photos.show import Rgb, plan, show
from sam_train.data.sample.decode import BadSample
from sam_train.data.shards.part import Entry
from sam_train.data.tiles.grid import TileGrid, Window, window_rows
from sam_train.data.tiles.parts import SceneObjects
from sam_train.errors import UserError

log = logging.getLogger(__name__)

_READERS = 8


@dataclass(slots=True, kw_only=True)
class TiledPart(FormatPart):
    """The tiles of a data set's photos; rows are tiles, photo by photo."""

    owners: npt.NDArray[np.int64]
    """[n] the record of each tile."""
    windows: npt.NDArray[np.int64]
    """[n, 4] x, y, width and height."""

    def group(self, row: int) -> str | None:
        """Return the name of the tile's photo, or of what the photo itself is a part of."""
        record = self._record(row)
        return record.group() or record.name

    def stamp(self, row: int) -> bytes | None:
        """Return that of the photo, and the tile's place in it."""
        # Not super(): slots make dataclass return another class than super() closed over.
        photo = FormatPart.stamp(self, row)
        return None if photo is None else photo + self.windows[row].tobytes()

    def read(self, row: int) -> Entry:
        """Read a tile and the parts of objects in it.

        Raises:
            BadSample: the photo or all of its masks cannot be used.
        """
        record, window = self._record(row), _window(self.windows[row])
        try:
            read = record.masks()
            with (
                # A file of its own also where the photo lies in a table or a JSON.
                record.photo() as file,
                opened(file, most_pixels=MAX_SCENE, longest=MAX_SCENE) as found,
            ):
                # Before the window is cut: its place is that in the photo as the masks see it.
                raster = turned(found.raster, _sizes(read))
                fitting = fitting_masks(
                    read.masks, height=raster.height, width=raster.width, min_area=1
                )
                parts = SceneObjects(fitting.masks).within(window).parts
                if not parts:
                    raise SkipImageError("no mask left", record.name)
                pixels = self._shown(raster, window)
        except SkipImageError as error:
            detail = f" ({error.detail})" if error.detail else ""
            raise BadSample("unusable", f"{error.reason}: {record.name}{detail}") from None
        size = {"height": window.height, "width": window.width}
        masks = [{"segmentation": part.pixels.encoded(**size)} for part in parts]
        # Of a photo's masks, what cannot be used is counted with its first tile alone.
        first = row == 0 or self.owners[row - 1] != self.owners[row]
        return Entry(
            jpeg=b"",
            json=msgspec.json.encode({"annotations": masks}),
            pixels=pixels,
            skips=[*read.skips, *fitting.skips] if first else (),
        )

    def _shown(self, raster: Raster, window: Window) -> Rgb:
        # Of the whole photo, so that neighbouring tiles have one brightness.
        look = plan(raster, self.photos)
        band = raster.rows(window.y, window.y + window.height)
        values = band[:, window.x : window.x + window.width]
        return show(values, look, alpha=raster.alpha, premultiplied=raster.premultiplied)

    def _bytes(self, row: int) -> memoryview:
        owner = int(self.owners[row])
        return self.packed[self.offsets[owner] : self.offsets[owner + 1]].data


def open_tiled(spec: DatasetSpec, grid: TileGrid) -> TiledPart:
    """List the tiles of a data set, for which the masks of all photos are read once.

    Raises:
        UserError: it cannot be read, or has no tile with an object.
    """
    listing = open_listing(spec)
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda record: _tiles(record, grid), listing.records))
    without = [skip for _, skips in found for skip in skips]
    for reason in reasons_of(without):
        log.warning("%s: %s: %s", spec.setting, spec.name, reason.line("left out"))
    listing.skips += without
    owners = [k for k, (windows, _) in enumerate(found) for _ in windows]
    windows = [window for each, _ in found for window in each]
    if not windows:
        why = "; ".join(reason.line("left out") for reason in reasons_of(listing.skips))
        raise UserError(f"{spec.setting}: {spec.name} has no tile with an object ({why})")
    names = [
        f"{listing.records[k].name}#x{w.x}y{w.y}" for k, w in zip(owners, windows, strict=True)
    ]
    photos = len(set(owners))
    log.info("%s: %s: %d tiles of %d photos", spec.setting, spec.name, len(windows), photos)
    plain = format_part(spec, listing, names=names)
    corners = [(w.x, w.y, w.width, w.height) for w in windows]
    return TiledPart(
        path=plain.path,
        index=plain.index,
        shard=0,
        packed=plain.packed,
        offsets=plain.offsets,
        beside=plain.beside,
        reasons=plain.reasons,
        inputs=plain.inputs,
        owners=np.array(owners, dtype=np.int64),
        windows=np.array(corners, dtype=np.int64),
    )


def _tiles(record: Record, grid: TileGrid) -> tuple[list[Window], Sequence[Skip]]:
    """Return the tiles of a photo that show an object, by its masks alone."""
    try:
        read = record.masks()
        if not read.masks:
            raise SkipImageError("no mask")
    except SkipImageError as error:
        return [], [Skip(kind="image", reason=error.reason, name=record.name)]
    # The photo's own size, unless reading it will count these masks as being of another.
    sizes = Counter((m.segmentation["size"][0], m.segmentation["size"][1]) for m in read.masks)
    (height, width), _ = sizes.most_common(1)[0]
    fitting = fitting_masks(read.masks, height=height, width=width, min_area=1)
    scene = SceneObjects(fitting.masks)
    rows = window_rows(height=height, width=width, size=grid.size, overlap=grid.overlap)
    return [window for row in rows for window in row if scene.within(window).parts], []


def _window(corners: npt.NDArray[np.int64]) -> Window:
    x, y, width, height = corners.tolist()
    return Window(x=x, y=y, width=width, height=height)


def _sizes(read: MasksRead) -> set[tuple[int, int]]:
    return {(m.segmentation["size"][0], m.segmentation["size"][1]) for m in read.masks}
