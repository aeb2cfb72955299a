"""A photo with all its masks, before any is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_train.data.sample.decode import Masks
from sam_train.masks.frame import InputFrame
from sam_train.masks.rle import Runs


@dataclass(slots=True, kw_only=True)
class Scene:
    """A photo, or a window of it, and its masks: the part that a cache may keep."""

    frame: InputFrame
    """The photo's place in the input."""
    image: npt.NDArray[np.uint8]
    """[h, w, 3] RGB, resized; [H, W, 3] where `jitter` is still to take its window."""
    masks: Masks
    """The masks of the whole photo."""
    runs: Runs
    """The masks inside `frame.window`, and in its coordinates: what areas and points count."""
    usable: npt.NDArray[np.int64]
    """Indices of the masks that may be drawn; at least one."""
