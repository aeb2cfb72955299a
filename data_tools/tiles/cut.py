"""Cut one scene into tiles with the parts of its objects that lie in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from data_tools.tiles.georeference import georeference
from sam_train.data.formats.records import Record, SourceMask
from sam_train.data.formats.take import LEFT_OUT, fitting_masks
from sam_train.data.left_out import Skip, SkipImageError
from sam_train.data.photos.files import MAX_SCENE, opened
from sam_train.data.photos.jpeg import JPEG_QUALITY, encode
from sam_train.data.photos.raster import Raster, turned
from sam_train.data.photos.rule import PhotoRule, Taken
from sam_train.data.photos.show import Look, Rgb, plan, show_rows
from sam_train.data.shards.writer import Annotation, ShardSample, annotation_from_rle
from sam_train.data.tiles.grid import Window, window_rows
from sam_train.data.tiles.parts import MIN_VISIBLE, SceneObjects


@dataclass(frozen=True, slots=True, kw_only=True)
class TileConfig:
    """Settings that are the same for all scenes."""

    size: int = 1024
    """Pixels of a tile's side; smaller scenes are one tile as they are."""
    overlap: int = 128
    """Pixels that neighbours share: what is no larger is whole in one tile at least."""
    min_visible: float = MIN_VISIBLE
    """The part of an object in a tile is left out if it is smaller than this share of the object
    and of the tile."""
    min_area: int = 1
    """Parts of fewer pixels are left out."""
    jpeg_quality: int = JPEG_QUALITY
    photos: PhotoRule = field(default_factory=PhotoRule)
    keeps_empty: bool = False
    """Tiles without a mask are written, too: photos that have no masks yet."""
    threads: int = 1
    """Tiles that are encoded at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPart:
    """A row of `objects.tsv`: an object, or what a tile shows of it."""

    image_id: int
    mask_id: int
    """The annotation's number in the shard."""
    name: str
    """Name of the whole object: its file or annotation."""
    source_id: int
    visible: float
    """Share of the object's pixels that lie in the tile; 1 is all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A tile that was written: a row of `tiles.tsv`."""

    image_id: int
    scene: str
    window: Window
    masks: int
    transform: tuple[float, ...] = ()
    """Transform of a georeferenced scene's tile, see `Georeference.of`."""
    crs: str = ""


@dataclass(slots=True)
class TileTally:
    """The work of a run so far."""

    scenes: list[str] = field(default_factory=list)
    photos: list[Taken] = field(default_factory=list)
    """The treatment of each of the scenes."""
    tiles: list[Tile] = field(default_factory=list)
    parts: list[ObjectPart] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    objects: int = 0
    """Objects of all scenes, with those of which no tile shows enough."""
    never_whole: list[str] = field(default_factory=list)
    """Objects that are whole in no tile."""
    small_parts: int = 0
    """Parts left out, of objects that other tiles show."""
    empty: int = 0
    """Tiles without a mask."""
    numbered: int = 0
    """Tiles so far, empty ones too."""

    def skip(self, kind: str, reason: str, name: str) -> None:
        """Count what was left out."""
        self.skips.append(Skip(kind=kind, reason=reason, name=name))


def cut_scenes(
    records: Sequence[Record], config: TileConfig, tally: TileTally
) -> Iterator[ShardSample]:
    """Cut every scene; `tally` is kept up to date while the tiles are read."""
    for record in records:
        try:
            yield from _cut(record, config, tally)
        except SkipImageError as error:
            detail = f" ({error.detail})" if error.detail else ""
            tally.skip("image", error.reason, f"{record.name}{detail}")


def _cut(record: Record, config: TileConfig, tally: TileTally) -> Iterator[ShardSample]:
    read = record.masks()
    tally.skips += read.skips
    if not read.masks and not config.keeps_empty:
        raise SkipImageError("no mask")
    try:
        yield from _cut_open(record, read.masks, config, tally)
    except SkipImageError:
        if record.name not in tally.scenes:
            for mask in read.masks:
                tally.skip("mask", LEFT_OUT, mask.name)
        raise


def _cut_open(
    record: Record, masks: Sequence[SourceMask], config: TileConfig, tally: TileTally
) -> Iterator[ShardSample]:
    sizes = {(m.segmentation["size"][0], m.segmentation["size"][1]) for m in masks}
    with (
        record.photo() as file,
        opened(file, most_pixels=MAX_SCENE, longest=MAX_SCENE) as found,
    ):
        raster = turned(found.raster, sizes)
        fitting = fitting_masks(
            masks, height=raster.height, width=raster.width, min_area=config.min_area
        )
        tally.skips += fitting.skips
        objects = SceneObjects(fitting.masks)
        if not objects.objects and not config.keeps_empty:
            tally.skip("image", "no mask left", record.name)
            return
        look = plan(raster, config.photos)
        tally.scenes.append(record.name)
        tally.photos.append(look.taken)
        tally.objects += len(objects.objects)
        scene = _Scene(record, raster=raster, look=look, scene=objects, config=config, tally=tally)
        yield from scene.tiles()


class _Scene:
    """A scene while it is cut."""

    def __init__(
        self,
        record: Record,
        *,
        raster: Raster,
        look: Look,
        scene: SceneObjects,
        config: TileConfig,
        tally: TileTally,
    ) -> None:
        self._name = record.name
        self._place = georeference(record.image)
        self._raster, self._look = raster, look
        self._scene, self._objects = scene, scene.objects
        self._config, self._tally = config, tally
        self._shown: set[int] = set()
        self._whole: set[int] = set()

    def tiles(self) -> Iterator[ShardSample]:
        """Cut row by row of tiles, so that no more of a TIFF than that is in memory."""
        config = self._config
        size = {"height": self._raster.height, "width": self._raster.width}
        with ThreadPoolExecutor(config.threads) as pool:
            for row in window_rows(**size, size=config.size, overlap=config.overlap):
                numbered = [(self._tally.numbered + k, w) for k, w in enumerate(row, start=1)]
                self._tally.numbered += len(row)
                found = [(number, w, self._annotations(number, w)) for number, w in numbered]
                if not config.keeps_empty:
                    found = [tile for tile in found if tile[2]]
                if not found:
                    continue
                top = row[0].y
                band = show_rows(self._raster, self._look, top, top + row[0].height)
                waiting = [
                    (number, window, annotations, pool.submit(self._encode, band, window))
                    for number, window, annotations in found
                ]
                for number, window, annotations, jpeg in waiting:
                    self._note(number, window, annotations)
                    yield ShardSample(
                        image_id=number,
                        jpeg=jpeg.result(),
                        width=window.width,
                        height=window.height,
                        annotations=annotations,
                    )
        self._close()

    def _encode(self, band: Rgb, window: Window) -> bytes:
        pixels = band[:, window.x : window.x + window.width]
        return encode(pixels, taken=self._look.taken, quality=self._config.jpeg_quality).jpeg

    def _annotations(self, number: int, window: Window) -> list[Annotation]:
        """Return the masks of a tile; count what is left out of it."""
        config, tally = self._config, self._tally
        taken = self._scene.within(window, min_visible=config.min_visible, min_area=config.min_area)
        tally.small_parts += taken.small
        found = []
        for part in taken.parts:
            whole = self._objects[part.number]
            self._shown.add(part.number)
            if part.visible == 1:
                self._whole.add(part.number)
            mask_id = len(tally.parts) + 1
            tally.parts.append(
                ObjectPart(
                    image_id=number,
                    mask_id=mask_id,
                    name=whole.name,
                    source_id=whole.id,
                    visible=part.visible,
                )
            )
            rle = part.pixels.encoded(height=window.height, width=window.width)
            found.append(annotation_from_rle(rle, id=mask_id))
        tally.empty += not found
        return found

    def _note(self, number: int, window: Window, annotations: Sequence[Annotation]) -> None:
        self._tally.tiles.append(
            Tile(
                image_id=number,
                scene=self._name,
                window=window,
                masks=len(annotations),
                transform=() if self._place is None else self._place.of(window),
                crs="" if self._place is None else self._place.crs,
            )
        )

    def _close(self) -> None:
        """Count the objects that no tile shows, or none as a whole."""
        for k, whole in enumerate(self._objects):
            if k not in self._shown:
                self._tally.skip("mask", "no tile shows enough of it", whole.name)
            elif k not in self._whole:
                self._tally.never_whole.append(whole.name)
