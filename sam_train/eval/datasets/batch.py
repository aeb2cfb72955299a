"""A photo with its masks as a batch of one image, for the model's functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from sam_train.data.feed.order import hash64
from sam_train.data.sample import select
from sam_train.eval.datasets.images import EvalSample
from sam_train.masks import rle
from sam_train.masks.frame import InputFrame
from sam_train.types import MASK_ID_BITS, Batch

Points = npt.NDArray[np.int64]
_STREAM = 0x706F696E74  # "point": apart from the draws of training


def prompt_batch(
    sample: EvalSample,
    *,
    image_size: int,
    points: Points | None = None,
    masks: Sequence[int] | None = None,
) -> Batch:
    """Make a batch of one image and its masks, as `Sam.encode` and `play_clicks` take it.

    Args:
        image_size: S.
        points: int64 [m, 2] (x, y), original frame: first clicks of the m masks taken, for
            first="random"; zeros if left out.
        masks: positions among the sample's masks; all by default.

    Returns:
        On the CPU, with `rles` and boxes (first to last foreground pixel, input frame). The loss
        grid `masks` is empty: [m, 1, 1].
    """
    taken = list(range(len(sample.masks)) if masks is None else masks)
    frame = InputFrame(original=sample.size, side=image_size)
    chosen = [sample.masks[k] for k in taken]
    corners = _runs(sample, taken).extents.reshape(-1, 2, 2)
    first = np.zeros((len(taken), 2), dtype=np.int64) if points is None else points
    return Batch(
        images=torch.from_numpy(frame.square(sample.image))[None],
        image_sizes=torch.tensor([frame.size]),
        original_sizes=torch.tensor([sample.size]),
        # Scores are at the original resolution, from `rles`; nothing reads a loss grid.
        masks=torch.zeros(len(taken), 1, 1, dtype=torch.uint8),
        image_index=torch.zeros(len(taken), dtype=torch.int64),
        points=torch.from_numpy(frame.map_points(first)),
        boxes=torch.from_numpy(frame.map_points(corners).reshape(-1, 4)),
        mask_ids=torch.tensor(taken, dtype=torch.int64) & ((1 << MASK_ID_BITS) - 1),
        keys=[sample.key],
        positions=[0],
        rles=chosen,
    )


def random_points(
    sample: EvalSample, *, seed: int, draw: int = 0, masks: Sequence[int] | None = None
) -> Points:
    """Draw a foreground pixel of each mask uniformly, decided by the arguments and `sample.key`.

    Args:
        draw: number of the draw; another one gives other points.
        masks: positions among the sample's masks; all by default. They do not change a mask's own
            draw.

    Returns:
        int64 [m, 2] (x, y), original frame.
    """
    taken = np.array(range(len(sample.masks)) if masks is None else masks, dtype=np.int64)
    # By the sample's name, not its place, so that a subset of the images has the same points.
    name = int.from_bytes(hashlib.blake2b(sample.key.encode(), digest_size=7).digest(), "big")
    runs = _runs(sample, range(len(sample.masks)))
    ranks = select.draw_ranks(taken, runs.areas[taken], key=hash64(seed, _STREAM, draw, name))
    return rle.pixels_at(runs, taken, ranks)


def _runs(sample: EvalSample, masks: Sequence[int]) -> rle.Runs:
    counts = [sample.masks[k]["counts"] for k in masks]
    height, width = sample.size
    return rle.parse(
        [c if isinstance(c, bytes) else c.encode() for c in counts], height=height, width=width
    )
