"""Samples by their place in the order: read, check, filter, draw and decode, in this order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from sam_train.data.feed.order import STREAM_POINT, STREAM_SUBSET, Order, hash64
from sam_train.data.left_out import reasons_of
from sam_train.data.sample import select
from sam_train.data.sample.cells import any_with_cell, with_cell
from sam_train.data.sample.decode import (
    BadSample,
    Bands,
    Masks,
    as_rle,
    open_entry,
    read_masks,
    to_rgb,
)
from sam_train.data.sample.jitter import jittered
from sam_train.data.sample.scene import Scene
from sam_train.data.sample.scene_cache import SceneCache
from sam_train.data.sample.scene_disk import KeptScene, Remark, SceneDisk
from sam_train.data.shards.reader import Shards
from sam_train.data.skips import KINDS, Skips, kind_of
from sam_train.errors import UserError
from sam_train.masks import rle
from sam_train.masks.frame import InputFrame
from sam_train.types import MASK_ID_BITS, Sample

_MAX_ATTEMPTS = 100


class Scenes:
    """Reads sample `index` of the shards as a `Scene`."""

    def __init__(
        self,
        shards: Shards,
        *,
        image_size: int,
        max_area_fraction: float,
        skips: Skips,
        cache: bool = False,
        disk_cache: str = "",
        disk_cache_gb: float = 20.0,
        scale_jitter: Sequence[float] = (),
        jpeg: str = "exact",
        mask_sampling: str = "nearest",
        grid_size: int | None = None,
    ) -> None:
        """Take settings as `config.DataConfig` has them.

        Without `scale_jitter` a scene is a whole photo.

        Args:
            grid_size: R, to refuse photos of which no mask has a cell before they are decoded;
                None refuses none.
        """
        self.mask_sampling = mask_sampling
        self._grid_size = grid_size
        # Jitter may take a small window of the photo, which then needs all of its pixels.
        self._scaled_jpeg = jpeg == "scaled" and not scale_jitter
        self.shards = shards
        self._image_size = image_size
        self._max_area_fraction = max_area_fraction
        self.skips = skips
        self._scale_jitter = scale_jitter
        self._cache = SceneCache() if cache else None
        decided = {
            "image_size": image_size,
            "max_area_fraction": max_area_fraction,
            "scaled_jpeg": self._scaled_jpeg,
            "own_size": bool(scale_jitter),
        }
        self._disk = (
            SceneDisk(disk_cache, gigabytes=disk_cache_gb, settings=decided) if disk_cache else None
        )

    def get(self, index: int, *, draw_key: tuple[int, int, int]) -> Scene:
        """Read sample `index`, at the random scale that (seed, epoch, index) decides, if any.

        Raises:
            BadSample: it cannot be used.
        """
        scene = self._whole(index)
        if not self._scale_jitter:
            return scene
        return jittered(
            scene,
            self._scale_jitter,
            max_area_fraction=self._max_area_fraction,
            draw_key=draw_key,
            grid_size=self._grid_size,
            mask_sampling=self.mask_sampling,
        )

    def _whole(self, index: int) -> Scene:
        if self._cache is None:
            return self._kept_on_disk(index)
        scene = self._cache.get(index)
        if scene is None:
            scene = self._kept_on_disk(index)
            self._cache.put(index, scene)
        return scene

    def _kept_on_disk(self, index: int) -> Scene:
        # None: the sample's files cannot be looked at, so the read below says what is wrong.
        stamp = None if self._disk is None else self.shards.stamp(index)
        if self._disk is None or stamp is None:
            return self._loaded(index).scene
        kept = self._disk.get(stamp)
        if kept is None:
            kept = self._loaded(index)
            self._disk.put(stamp, kept)
        else:
            self._say(kept.remarks, index)
        return kept.scene

    def _loaded(self, index: int) -> KeptScene:
        remarks: list[Remark] = []
        try:
            return KeptScene(scene=self._load(index, remarks), remarks=remarks)
        finally:
            # Also of a photo that is refused later: its masks are counted all the same.
            self._say(remarks, index)

    def _say(self, remarks: Sequence[Remark], index: int) -> None:
        for remark in remarks:
            self.skips.add(remark.kind, remark.message, index=index, count=remark.count)

    def _load(self, index: int, remarks: list[Remark]) -> Scene:
        try:
            entry = self.shards.read(index)
        except BadSample:
            raise
        except Exception as error:  # fsspec's backends raise what they like
            raise BadSample("unreadable", str(error)) from None
        # The header is enough so far: photos without a usable mask are never decoded.
        photo = open_entry(entry)
        masks = read_masks(entry.json, height=photo.height, width=photo.width)
        usable = select.usable(
            masks.runs,
            pixels=photo.height * photo.width,
            max_area_fraction=self._max_area_fraction,
        )
        remarks += self._mask_remarks(masks, index, usable=len(usable))
        for reason in reasons_of(entry.skips) if entry.skips else ():
            message = f"{self.shards.key(index)}: {reason.line('left out')}"
            remarks.append(Remark("unusable_mask", message, reason.count))
        frame = InputFrame(original=(photo.height, photo.width), side=self._image_size)
        # Before the JPEG, which costs more than all that stands above.
        self._require_cell(masks.runs, usable, frame)
        return Scene(
            frame=frame,
            image=self._pixels(photo, frame),
            masks=masks,
            runs=masks.runs,
            usable=usable,
        )

    def _pixels(self, photo: Image.Image | Bands, frame: InputFrame) -> npt.NDArray[np.uint8]:
        # Kept in its own size for jitter, which resizes its window.
        if isinstance(photo, Bands):
            return photo.pixels if self._scale_jitter else frame.resize_array(photo.pixels)
        rgb = to_rgb(photo, at_least=frame.size if self._scaled_jpeg else None)
        return np.asarray(rgb) if self._scale_jitter else frame.resize(rgb)

    def _require_cell(
        self, runs: rle.Runs, usable: npt.NDArray[np.int64], frame: InputFrame
    ) -> None:
        # With scale_jitter it depends on the window.
        if self._grid_size is None or self._scale_jitter:
            return
        area = self.mask_sampling == "area"
        if not any_with_cell(runs, usable, frame, cells=self._grid_size, area=area):
            raise _no_cell(len(usable))

    def _mask_remarks(self, masks: Masks, index: int, *, usable: int) -> list[Remark]:
        status = masks.runs.status
        first: dict[str, int] = {}
        counts: Counter[str] = Counter()
        for k in np.flatnonzero(status).tolist():
            kind = kind_of(int(status[k]))
            counts[kind] += 1
            first.setdefault(kind, k)
        reasons = {kind: f"mask {k}: {rle.PROBLEMS[status[k]]}" for kind, k in first.items()}
        # A photo all of whose masks are invalid is one bad sample, not many bad masks.
        if not usable and reasons:
            raise BadSample("bad_rle", next(iter(reasons.values())))
        if not usable:
            raise BadSample("no_masks", f"none of {len(status)} masks can be used")
        key = self.shards.key(index)
        remarks = [Remark(kind, f"{key}: {reasons[kind]}", n) for kind, n in counts.items()]
        for kind, count in (("polygons", masks.polygons), ("plain_runs", masks.plain)):
            if count:
                message = f"{key}: {count} {KINDS[kind]}; compressed ones are read faster"
                remarks.append(Remark(kind, message, count))
        return remarks


def _no_cell(masks: int) -> BadSample:
    reason = f"none of its {masks} masks has a cell of the loss grid: all are smaller"
    return BadSample("no_cell", reason)


def draw_sample(
    scene: Scene,
    *,
    key: str,
    position: int,
    draw_key: tuple[int, int, int],
    limit: int | None,
    grid_size: int,
    mask_sampling: str = "nearest",
    with_rles: bool = False,
) -> Sample:
    """Draw at most `limit` masks of a scene and a foreground point of each.

    Only masks that have a cell of the loss grid are drawn: another would be an empty target. For
    evaluation, which compares in the original frame, all are.

    Args:
        draw_key: (seed, epoch, sample index); decides the draw.
        grid_size: R.
        with_rles: for evaluation.

    Raises:
        BadSample: no mask has a cell.
    """
    seed, epoch, index = draw_key
    area, usable = mask_sampling == "area", scene.usable
    if not with_rles:
        masks = scene.masks.runs
        usable = usable[with_cell(masks, usable, scene.frame, cells=grid_size, area=area)]
        if not len(usable):
            raise _no_cell(len(scene.usable))
    # By each mask's own hash, so that leaving out other masks does not change who is drawn.
    chosen = select.draw(usable, limit=limit, key=hash64(seed, STREAM_SUBSET, epoch, index))
    runs, frame = scene.runs, scene.frame
    # A stream of its own: the subset's hashes are small for masks that were chosen.
    ranks = select.draw_ranks(
        chosen, runs.areas[chosen], key=hash64(seed, STREAM_POINT, epoch, index)
    )
    # Runs are in the window's coordinates, `map_points` wants those of the photo.
    window = np.array([frame.window.left, frame.window.top])
    corners = runs.extents[chosen].reshape(-1, 2, 2)
    height, width = frame.original
    return Sample(
        key=key,
        position=position,
        image=scene.image,
        original_size=frame.original,
        # Not from the window's runs: a cell at its edge may lie on a pixel that is half outside.
        masks=_grid(scene, chosen, cells=grid_size, area=area),
        points=frame.map_points(rle.pixels_at(runs, chosen, ranks) + window),
        boxes=frame.map_points(corners + window).reshape(-1, 4),
        # The same on any number of ranks; all later draws are keyed by it.
        mask_ids=(position << MASK_ID_BITS) + np.arange(len(chosen), dtype=np.int64),
        rles=[as_rle(scene.masks, int(k), height=height, width=width) for k in chosen]
        if with_rles
        else None,
        without_cell=len(scene.usable) - len(usable),
    )


def report_small(sample: Sample, skips: Skips, *, index: int) -> None:
    """Count the masks of a drawn sample that have no cell.

    Args:
        index: the sample's number in the shards.
    """
    if sample.without_cell:
        count = sample.without_cell
        message = f"{sample.key}: {count} of its masks have no cell of the loss grid"
        skips.add("small_mask", message, index=index, count=count)


def _grid(
    scene: Scene, chosen: npt.NDArray[np.int64], *, cells: int, area: bool
) -> npt.NDArray[np.uint8]:
    runs, frame = scene.masks.runs, scene.frame
    if area:
        rows, columns = frame.row_edges(cells), frame.column_edges(cells)
        return rle.rasterise_area(runs, chosen, rows=rows, columns=columns, cells=cells)
    starts = frame.cell_rows(cells), frame.cell_columns(cells)
    return rle.rasterise(runs, chosen, rows=starts[0], columns=starts[1], cells=cells)


class TrainDataset(Dataset[Sample | UserError]):
    """Position of the endless order -> `Sample`; the same in any process."""

    def __init__(
        self, scenes: Scenes, *, order: Order, masks_per_image: int, grid_size: int
    ) -> None:
        self._scenes = scenes
        self._order = order
        self._masks_per_image = masks_per_image
        self._grid_size = grid_size

    def __getitem__(self, position: int) -> Sample | UserError:
        """Return the sample, or the error to raise in the main process.

        An error that a worker raises arrives there with the worker's traceback in its message.
        """
        try:
            return self.sample(position)
        except UserError as error:
            return error

    def sample(self, position: int) -> Sample:
        """Return the sample at a position; an unusable one is replaced as the position decides.

        Raises:
            UserError: too much of the data is unusable.
        """
        skips, shards = self._scenes.skips, self._scenes.shards
        place = self._order.place(position)
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            skips.read()
            draw_key = (self._order.seed, place.epoch, place.index)
            try:
                sample = draw_sample(
                    self._scenes.get(place.index, draw_key=draw_key),
                    key=shards.key(place.index),
                    position=position,
                    draw_key=draw_key,
                    limit=self._masks_per_image,
                    grid_size=self._grid_size,
                    mask_sampling=self._scenes.mask_sampling,
                )
            except BadSample as bad:
                message = f"{shards.key(place.index)}: {bad}"
                skips.add(bad.kind, message, index=place.index)
                skips.check(last=message)
                # By position and attempt alone, so that every run replaces it by the same sample.
                place = self._order.replacement(position, attempt)
                continue
            report_small(sample, skips, index=place.index)
            return sample
        raise UserError(
            f"{_MAX_ATTEMPTS} samples in a row could not be used (the last: {message}); "
            "check the shards of data.train."
        )


class ValDataset(Dataset["Sample | None"]):
    """Sample index -> `Sample` with its RLEs, the same in every run whatever its seed."""

    def __init__(self, scenes: Scenes, *, masks_per_image: int | None, grid_size: int) -> None:
        self._scenes = scenes
        self._masks_per_image = masks_per_image
        self._grid_size = grid_size

    def __getitem__(self, index: int) -> Sample | None:
        """Return a sample, None for an unusable one: another in its place would count twice."""
        skips, key = self._scenes.skips, self._scenes.shards.key(index)
        skips.read()
        # No seed: two runs are compared on the same masks and points.
        draw_key = (0, 0, index)
        try:
            scene = self._scenes.get(index, draw_key=draw_key)
        except BadSample as bad:
            skips.add(bad.kind, f"{key}: {bad}", index=index)
            return None
        return draw_sample(
            scene,
            key=key,
            position=index,
            draw_key=draw_key,
            limit=self._masks_per_image,
            grid_size=self._grid_size,
            mask_sampling=self._scenes.mask_sampling,
            with_rles=True,
        )
