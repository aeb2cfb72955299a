"""Average recall of masks whatever their category, as pycocotools counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from sam_train.data.formats.ids import sort_key
from sam_train.eval.coco import Results, TruthImage, TruthMask
from sam_train.eval.coco.truth import FREQUENCIES, CategoryId
from sam_train.types import RLE

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which a mask counts as found; AR is the mean over them."""
AT = (1, 10, 100, 1000)
"""Numbers of proposals of the curve."""
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's bounds of areas in pixels; a mask on a bound belongs to both, as in pycocotools."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def _match(iou: Floats, thresholds: Floats) -> Ints:
    """Return int64 [T, G], the proposal (from 0) that finds each mask; -1 where none does.

    Proposals choose in order. Each takes the best mask that is left, and of equals the last.
    """
    found = np.full((len(thresholds), iou.shape[1]), -1, dtype=np.int64)
    for t in range(len(thresholds)):
        for d in range(iou.shape[0]):
            best, choice = min(thresholds[t], 1 - 1e-10), -1
            for g in range(iou.shape[1]):
                if found[t, g] < 0 and iou[d, g] >= best:
                    best, choice = iou[d, g], g
            if choice >= 0:
                found[t, choice] = d
    return found


def given_proposals(results: Results, image: TruthImage) -> tuple[list[RLE], list[float], int]:
    """Read masks of another program and their scores; count those that cannot be read."""
    masks, scores, unreadable = [], [], 0
    # By category where they have one, as pycocotools orders equal scores.
    for result in sorted(results.of(image), key=lambda one: sort_key(one.category_id or 0)):
        mask, score = result.mask(image), result.rank()
        if mask is None or score is None:
            unreadable += 1
            continue
        masks.append(mask)
        scores.append(score)
    return masks, scores, unreadable


def count_found(
    masks: Sequence[TruthMask],
    proposals: Sequence[RLE],
    scores: Sequence[float],
    *,
    limit: int,
    frequencies: Mapping[CategoryId, str | None],
) -> dict[str, Any]:
    """Count the masks of an image that are found, by kind.

    Args:
        masks: of the image; crowds do not count.
        proposals: of the image.
        scores: of the proposals; of equal ones the first comes first.
        limit: number of proposals that count.
        frequencies: LVIS's letter by category, None for others.

    Returns:
        By kind (all, small, ..., rare) `masks`, their number, and `found` [numbers][thresholds],
        the number that the first AT (and at last `limit`) proposals find.
    """
    real = [m for m in sorted(masks, key=lambda mask: sort_key(mask.category)) if not m.crowd]
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:limit]
    iou = np.zeros((len(order), len(real)))
    if len(order) and real:
        chosen = [dict(proposals[k]) for k in order]
        iou = np.asarray(
            coco_mask.iou(chosen, [dict(m.rle) for m in real], [0] * len(real)), dtype=np.float64
        ).reshape(iou.shape)
    areas = np.array([mask.area for mask in real])
    kinds = {"all": np.ones(len(real), dtype=bool)}
    kinds |= {name: (areas >= low) & (areas <= high) for name, (low, high) in SIZES.items()}
    letters = np.array([frequencies.get(mask.category) or "" for mask in real])
    kinds |= {name: letters == letter for letter, name in FREQUENCIES.items()}
    counted = {}
    for name, own in kinds.items():
        if not own.any():
            continue
        # Matched anew for each kind: masks of other kinds take no proposals away, as in COCO.
        by = _match(np.ascontiguousarray(iou[:, own]), THRESHOLDS)
        numbers = [*(k for k in AT if k < limit), limit]
        counted[name] = {
            "masks": int(own.sum()),
            "found": [((by >= 0) & (by < k)).sum(axis=1).tolist() for k in numbers],
        }
    return counted


def average_recall(counted: Sequence[Mapping[str, Any]], kind: str) -> list[float] | None:
    """Compute AR at each number of proposals over all images; None for a kind without masks."""
    own = [image[kind] for image in counted if kind in image]
    if not own:
        return None
    masks = sum(image["masks"] for image in own)
    found = np.sum([image["found"] for image in own], axis=0) / masks
    means: list[float] = found.mean(axis=1).tolist()
    return means
