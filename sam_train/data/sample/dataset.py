"""Samples by their place in the order: read, check, filter, draw and decode, in this order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from sam_train.data.feed.mix import MixedOrder
from sam_train.data.feed.order import STREAM_POINT, STREAM_SUBSET, Order, hash64
from sam_train.data.sample import select
from sam_train.data.sample.cells import with_cell
from sam_train.data.sample.decode import BadSample, as_rle
from sam_train.data.sample.scene import Scene
from sam_train.data.sample.scenes import Scenes, no_cell
from sam_train.data.skips import Skips
from sam_train.errors import UserError
from sam_train.masks import rle
from sam_train.types import MASK_ID_BITS, Sample

_MAX_ATTEMPTS = 100


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
            raise no_cell(len(scene.usable))
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
        self, scenes: Scenes, *, order: Order | MixedOrder, masks_per_image: int, grid_size: int
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
