"""Large-scale jitter (paper A, data-engine variant): a random scale and a random window.

The rule is that of ViTDet's recipes, from which SAM's comes. The factor is uniform, and the
window's place is uniform among those inside the scaled photo. A photo smaller than the input lies
at the top left as always.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam_train.data.feed.order import STREAM_JITTER, hash64
from sam_train.data.sample import select
from sam_train.data.sample.cells import any_with_cell
from sam_train.data.sample.scene import Scene
from sam_train.masks import rle
from sam_train.masks.frame import InputFrame

_ATTEMPTS = 10


def jittered(
    scene: Scene,
    scale_range: Sequence[float],
    *,
    max_area_fraction: float,
    draw_key: tuple[int, int, int],
    grid_size: int | None = None,
    mask_sampling: str = "nearest",
) -> Scene:
    """Take a random window of a scene whose photo was kept in its own size.

    A window without a mask that may be drawn, or only with masks that have no cell at its scale,
    is drawn again; after ten, the whole photo is taken.

    Args:
        scale_range: low and high, relative to the input side.
        max_area_fraction: of the window that a mask may cover.
        draw_key: (seed, epoch, sample index); decides the draw.
        grid_size: R; None asks for no cell.
        mask_sampling: see `config.DataConfig`.
    """
    area = mask_sampling == "area"
    # The attempt is part of the key, so the number of redraws needs no state.
    for attempt in range(_ATTEMPTS):
        frame = draw_frame(scene.frame, scale_range, draw_key=(*draw_key, attempt))
        runs = rle.crop(scene.masks.runs, frame.window)
        rows, columns = frame.window.shape
        usable = select.usable(runs, pixels=rows * columns, max_area_fraction=max_area_fraction)
        if grid_size is not None and len(usable):
            masks = scene.masks.runs
            if any_with_cell(masks, usable, frame, cells=grid_size, area=area):
                break
        elif len(usable):
            break
    else:
        frame, runs, usable = scene.frame, scene.runs, scene.usable
    # Only now: windows that are drawn again cost no pixels.
    image = frame.resize_array(scene.image)
    return Scene(frame=frame, image=image, masks=scene.masks, runs=runs, usable=usable)


def draw_frame(
    whole: InputFrame, scale_range: Sequence[float], *, draw_key: tuple[int, ...]
) -> InputFrame:
    """Draw a random frame of the same photo."""
    scale, *place = (hash64(*draw_key, STREAM_JITTER, k) * 2.0**-64 for k in range(3))
    low, high = scale_range
    frame = InputFrame(original=whole.original, side=whole.side, scale=low + (high - low) * scale)
    # Nothing is left over where the scaled photo is smaller than the input: it lies at the top
    # left.
    room = np.subtract(frame.scaled, frame.size)
    # One more than there is room for: the first and the last place are both possible.
    top, left = (int(share * (pixels + 1)) for share, pixels in zip(place, room, strict=True))
    return InputFrame(
        original=whole.original, side=whole.side, scale=frame.scale, offset=(top, left)
    )
