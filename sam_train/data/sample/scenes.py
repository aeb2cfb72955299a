"""Scenes by their number in the shards: read, check, filter and decode, in this order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam_train.data.config import DataConfig
from sam_train.data.left_out import reasons_of
from sam_train.data.sample import select
from sam_train.data.sample.augment import Augmentation
from sam_train.data.sample.cells import any_with_cell
from sam_train.data.sample.decode import (
    BadSample,
    Bands,
    Masks,
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
from sam_train.masks import rle
from sam_train.masks.frame import InputFrame


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
        augmentation: Augmentation | None = None,
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
        self._augmentation = Augmentation() if augmentation is None else augmentation
        decided = {
            "image_size": image_size,
            "max_area_fraction": max_area_fraction,
            "scaled_jpeg": self._scaled_jpeg,
            "own_size": bool(scale_jitter),
        }
        self._disk = (
            SceneDisk(disk_cache, gigabytes=disk_cache_gb, settings=decided) if disk_cache else None
        )

    @classmethod
    def for_training(
        cls, shards: Shards, cfg: DataConfig, *, image_size: int, grid_size: int, skips: Skips
    ) -> Scenes:
        """Read training samples as `cfg` says, in either of its modes."""
        return cls(
            shards,
            image_size=image_size,
            max_area_fraction=cfg.max_area_fraction,
            skips=skips,
            # A stream reads each sample once, so nothing would be read from a cache.
            cache=cfg.cache and cfg.mode == "indexed",
            disk_cache=cfg.disk_cache if cfg.mode == "indexed" else "",
            disk_cache_gb=cfg.disk_cache_gb,
            scale_jitter=cfg.scale_jitter,
            jpeg=cfg.jpeg,
            mask_sampling=cfg.mask_sampling,
            grid_size=grid_size,
            augmentation=Augmentation(hflip=cfg.hflip, vflip=cfg.vflip, colour=cfg.colour),
        )

    def get(self, index: int, *, draw_key: tuple[int, int, int]) -> Scene:
        """Read sample `index` as (seed, epoch, index) decides: its flips, scale and colour.

        Raises:
            BadSample: it cannot be used.
        """
        scene = self._augmentation.flipped(self._whole(index), draw_key=draw_key)
        if self._scale_jitter:
            scene = jittered(
                scene,
                self._scale_jitter,
                max_area_fraction=self._max_area_fraction,
                draw_key=draw_key,
                grid_size=self._grid_size,
                mask_sampling=self.mask_sampling,
            )
        # Last, on the pixels that the model will see: the fewest.
        return self._augmentation.coloured(scene, draw_key=draw_key)

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
        # With scale_jitter it depends on the window, and a flip moves masks among the cells.
        if self._grid_size is None or self._scale_jitter or self._augmentation.flips:
            return
        area = self.mask_sampling == "area"
        if not any_with_cell(runs, usable, frame, cells=self._grid_size, area=area):
            raise no_cell(len(usable))

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


def no_cell(masks: int) -> BadSample:
    """Return the error of a photo of which no mask has a cell of the loss grid."""
    reason = f"none of its {masks} masks has a cell of the loss grid: all are smaller"
    return BadSample("no_cell", reason)
