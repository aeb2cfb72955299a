"""Scenes kept in memory: their bytes packed into slabs, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sam_train.data.sample.decode import Masks
from sam_train.data.sample.scene import Scene
from sam_train.masks.frame import InputFrame
from sam_train.masks.rle import Runs

_SLAB = 1 << 24
_ALIGNMENT = 16
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of a scene, and the sizes of the arrays that its bytes divide into."""

    slab: npt.NDArray[np.uint8]
    offset: int
    frame: InputFrame
    image: tuple[int, int, int]
    """(rows, columns, channels)."""
    data: int
    """Bytes of the compressed strings."""
    masks: int
    ends: int
    usable: int


class SceneCache:
    """Index -> scene of a whole photo, at the price of its bytes.

    It is no dict of scenes, because a training process may read its own data. Each of a scene's
    small arrays would then settle inside a large block that the step before has freed. The next
    step cannot use what is left of that block and takes another from the kernel, so that the
    process grows by megabytes with each photo kept. A slab is one block for hundreds of photos.
    """

    def __init__(self) -> None:
        self._places: dict[int, Place] = {}
        self._slab = np.empty(0, dtype=np.uint8)
        self._used = 0

    def __reduce__(self) -> tuple[type[SceneCache], tuple[()]]:
        """Return an empty cache for pickling: a worker that is spawned fills its own."""
        return SceneCache, ()

    def get(self, index: int) -> Scene | None:
        """Return the scene put at an index, as views of the kept bytes; None if there is none."""
        place = self._places.get(index)
        return None if place is None else scene_at(place)

    def put(self, index: int, scene: Scene) -> None:
        """Keep a copy of a scene whose runs are those of the whole photo."""
        assert scene.runs is scene.masks.runs
        arrays = arrays_of(scene)
        slab, offset = self._take(sum(padded(array.nbytes) for array in arrays))
        place = Place(
            slab=slab,
            offset=offset,
            frame=scene.frame,
            image=shape_of(scene.image),
            data=len(scene.masks.data),
            masks=len(scene.runs.status),
            ends=len(scene.runs.ends),
            usable=len(scene.usable),
        )
        # Written through the views that `get` will return, so both agree about the layout.
        for kept, array in zip(arrays_of(scene_at(place)), arrays, strict=True):
            kept[:] = array
        self._places[index] = place

    def _take(self, size: int) -> tuple[npt.NDArray[np.uint8], int]:
        """Take a block of a slab, aligned for every dtype."""
        if size > _SLAB // 4:  # of its own, so that the rest of a slab is never a large part
            return np.empty(size, dtype=np.uint8), 0
        if self._used + size > len(self._slab):
            self._slab, self._used = np.empty(_SLAB, dtype=np.uint8), 0
        offset = self._used
        self._used += size
        return self._slab, offset


def shape_of(image: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return (rows, columns, channels)."""
    rows, columns, channels = image.shape
    return rows, columns, channels


def arrays_of(scene: Scene) -> list[npt.NDArray[np.generic]]:
    """List the arrays of a scene, in the order in which they are kept."""
    masks, runs = scene.masks, scene.masks.runs
    return [
        scene.image,
        masks.data,
        masks.offsets,
        runs.ends,
        runs.starts,
        runs.status,
        runs.areas,
        runs.extents,
        scene.usable,
    ]


def scene_at(place: Place) -> Scene:
    """Make a scene of views into the slab, in the order of `arrays_of`."""
    at = place.offset

    def view(dtype: type[_Scalar], *shape: int) -> npt.NDArray[_Scalar]:
        nonlocal at
        array: npt.NDArray[_Scalar] = np.ndarray(shape, dtype=dtype, buffer=place.slab, offset=at)
        at += padded(array.nbytes)
        return array

    # In the order of `arrays_of`; each view moves the offset on.
    n = place.masks
    image, data = view(np.uint8, *place.image), view(np.uint8, place.data)
    offsets, ends = view(np.int64, n + 1), view(np.int32, place.ends)
    starts, status = view(np.int64, n + 1), view(np.int8, n)
    areas, extents = view(np.int64, n), view(np.int32, n, 4)
    runs = Runs(
        height=place.frame.original[0],
        ends=ends,
        starts=starts,
        status=status,
        areas=areas,
        extents=extents,
    )
    return Scene(
        frame=place.frame,
        image=image,
        masks=Masks(data=data, offsets=offsets, runs=runs),
        runs=runs,
        usable=view(np.int64, place.usable),
    )


def padded(size: int) -> int:
    """Return a number of bytes rounded up to the alignment of every dtype."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT
