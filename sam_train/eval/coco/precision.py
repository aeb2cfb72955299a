"""Average precision of masks or boxes as COCO and LVIS define it, by faster-coco-eval.

That library is a maintained port of pycocotools to C++, which also knows LVIS's rules. Categories
count only in images that list them as present or absent. Unmatched results of categories that are
not marked exhaustively do not count.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.ids import sort_key
from sam_train.eval.coco.truth import (
    FREQUENCIES,
    CategoryId,
    ImageId,
    Truth,
    TruthCategory,
    TruthImage,
)

SIZES = ("small", "medium", "large")
LVIS_MAX_DETECTIONS = 300
"""Per image, over all categories."""
COCO_MAX_DETECTIONS = (1, 10, 100)
"""Per image and category."""


@dataclass(slots=True, kw_only=True)
class Precision:
    """Figures of one evaluation: fractions of 1, None where there is nothing to find."""

    figures: dict[str, float | None]
    """ap, ap_50, ap_75, ap_small, ap_medium, ap_large, ar; with LVIS ap_rare, ap_common,
    ap_frequent."""
    categories: dict[str, float]
    """AP by the category's name, of those that the images have."""


def average_precision(
    truth: Truth,
    images: Sequence[TruthImage],
    results: Sequence[Mapping[str, Any]],
    *,
    kind: str = "segm",
) -> Precision:
    """Compute AP on some images of a ground truth.

    Args:
        images: those that count.
        results: image_id, category_id, score and either segmentation (an RLE) or bbox (x y w h),
            of these images only. Given both, COCO's tools take the box's area for the mask's.
        kind: segm or bbox.
    """
    from faster_coco_eval import COCO, COCOeval_faster  # noqa: PLC0415 - only this needs it

    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    taken = strongest(results) if truth.lvis else list(results)
    numbers = _Numbers.of(truth, images)
    # The library prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(_dataset(truth, images, numbers))
        dt = gt.loadRes([numbers.result(r) for r in taken]) if taken else _nothing(COCO, gt)
        evaluation = COCOeval_faster(gt, dt, kind, lvis_style=truth.lvis)
        evaluation.params.maxDets = (
            [LVIS_MAX_DETECTIONS] if truth.lvis else list(COCO_MAX_DETECTIONS)
        )
        evaluation.evaluate()
        evaluation.accumulate()
    by_number = {number: own for own, number in numbers.categories.items()}
    categories = [truth.categories[by_number[k]] for k in evaluation.params.catIds]
    return _figures(
        np.asarray(evaluation.eval["precision"]),
        np.asarray(evaluation.eval["recall"]),
        names=_names(categories),
        frequencies=[category.frequency for category in categories] if truth.lvis else None,
    )


def _names(categories: Sequence[TruthCategory]) -> list[str]:
    """Return names for the table; those that several categories have with their ids."""
    names = [category.name or str(category.id) for category in categories]
    return [
        name if names.count(name) == 1 else f"{name} ({category.id})"
        for name, category in zip(names, categories, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Numbers from 1 in place of ids, because the library reads numbers only, and 0 as none.

    Numeric ids keep their order, which decides between equal scores.
    """

    images: dict[ImageId, int]
    categories: dict[CategoryId, int]

    @classmethod
    def of(cls, truth: Truth, images: Sequence[TruthImage]) -> _Numbers:
        ids = sorted({image.id for image in images}, key=sort_key)
        categories = sorted(truth.categories, key=sort_key)
        return cls(
            {own: number for number, own in enumerate(ids, start=1)},
            {own: number for number, own in enumerate(categories, start=1)},
        )

    def result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Return a result with numbers in place of ids."""
        return {
            **result,
            "image_id": self.images[result["image_id"]],
            "category_id": self.categories[result["category_id"]],
        }


def strongest(
    results: Sequence[Mapping[str, Any]], *, limit: int = LVIS_MAX_DETECTIONS
) -> list[Mapping[str, Any]]:
    """Keep the highest scores of each image, as LVIS does before it evaluates."""
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [
        result
        for own in by_image.values()
        for result in sorted(own, key=lambda r: -float(r["score"]))[:limit]
    ]


def _figures(
    precision: npt.NDArray[np.float64],
    recall: npt.NDArray[np.float64],
    *,
    names: Sequence[str],
    frequencies: Sequence[str | None] | None,
) -> Precision:
    """Average [thresholds, recalls, categories, sizes, limits] and the same without recalls."""
    # The last limit is the largest number of detections.
    best = precision[..., -1]
    figures = {
        "ap": _mean(best[..., 0]),
        "ap_50": _mean(best[0, ..., 0]),
        # Thresholds go from 0.50 in steps of 0.05.
        "ap_75": _mean(best[5, ..., 0]),
    }
    figures |= {f"ap_{size}": _mean(best[..., k + 1]) for k, size in enumerate(SIZES)}
    for letter, word in reversed(FREQUENCIES.items()) if frequencies else ():
        own = [k for k, frequency in enumerate(frequencies or ()) if frequency == letter]
        figures[f"ap_{word}"] = _mean(best[:, :, own, 0])
    figures["ar"] = _mean(recall[:, :, 0, -1])
    by_category = {name: _mean(best[:, :, k, 0]) for k, name in enumerate(names)}
    found = {name: value for name, value in by_category.items() if value is not None}
    return Precision(figures=figures, categories=found)


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    # -1 marks a category or size without masks, which must not lower the mean.
    there = values[values > -1]
    return float(there.mean()) if there.size else None


def _dataset(truth: Truth, images: Sequence[TruthImage], numbers: _Numbers) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    listed: list[dict[str, Any]] = []
    for image in images:
        number = numbers.images[image.id]
        for mask in truth.masks(image)[0]:
            x0, y0, x1, y1 = mask.box
            annotations.append(
                {
                    # From 1, as 0 means no match to the library.
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": numbers.categories[mask.category],
                    "segmentation": dict(mask.rle),
                    "area": mask.area,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": int(mask.crowd),
                }
            )
        entry: dict[str, Any] = {"id": number, "height": image.height, "width": image.width}
        if truth.lvis:
            for name in ("neg_category_ids", "not_exhaustive_category_ids"):
                entry[name] = [numbers.categories[own] for own in getattr(image, name) or ()]
        listed.append(entry)
    categories = [
        {"id": numbers.categories[c.id], "name": c.name, "frequency": c.frequency}
        for c in truth.categories.values()
    ]
    return {"images": listed, "annotations": annotations, "categories": categories}


def _nothing(cls: Any, truth: Any) -> Any:
    """Make results without a result, which loadRes does not take."""
    return cls({**truth.dataset, "annotations": []})
