"""Results of any program in COCO's form: a list of {image_id, category_id, score, bbox or mask}."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from data_tools.readers.coco import parse_segmentation
from sam_train.errors import UserError
from sam_train.eval.coco.truth import ImageId, Truth, TruthImage
from sam_train.types import RLE

Box = tuple[float, float, float, float]


class Detection(msgspec.Struct, kw_only=True):
    """An entry of the list; other fields are ignored."""

    image_id: ImageId
    category_id: int | None = None
    score: float | None = None
    bbox: list[float] | None = None
    segmentation: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    predicted_iou: float | None = None
    stability_score: float | None = None

    def rank(self) -> float | None:
        """`score`, else the mean of predicted IoU and stability, as the paper ranks proposals."""
        if self.score is not None:
            return self.score
        if self.predicted_iou is None or self.stability_score is None:
            return None
        return (self.predicted_iou + self.stability_score) / 2

    def box(self, image: TruthImage) -> Box | None:
        """x0 y0 x1 y1 within the image; None if nothing of it lies there."""
        if self.bbox is None or len(self.bbox) != 4 or not all(map(math.isfinite, self.bbox)):
            return None
        x, y, w, h = self.bbox
        x0, x1 = max(x, 0.0), min(x + w, float(image.width))
        y0, y1 = max(y, 0.0), min(y + h, float(image.height))
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def mask(self, image: TruthImage) -> RLE | None:
        """Of the image's size; None if it cannot be read or is of another."""
        try:
            found = parse_segmentation(bytes(self.segmentation), image.height, image.width)
        except (ValueError, OverflowError):
            return None
        if tuple(found["size"]) != (image.height, image.width):
            return None
        return RLE(size=found["size"], counts=found["counts"])


class _Annotated(msgspec.Struct):
    """A COCO file with the results as annotations, which programs that propose masks write."""

    annotations: list[Detection]


@dataclass(slots=True, kw_only=True)
class Results:
    """A file of results, as far as it fits a ground truth."""

    path: Path
    digest: str
    by_image: dict[ImageId, list[Detection]]
    left_out: Counter[str] = field(default_factory=Counter)

    def of(self, image: TruthImage) -> Sequence[Detection]:
        """In the file's order."""
        return self.by_image.get(image.id, [])


def read_results(path: Path, truth: Truth, *, option: str, categories: bool) -> Results:
    """Read results for the images of `truth`.

    What is about other images, or of categories that the ground truth does not have, is left out
    and counted.

    Args:
        option: the setting that named the file, for messages.
        categories: whether each result must have one.

    Raises:
        UserError: the file cannot be read, has no scores, or nothing of it fits.
    """
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=list[Detection] | _Annotated)
    except OSError as error:
        raise UserError(f"{option}={path} cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{option}={path} is not COCO's results format ({error}): it needs a list of objects "
            "with image_id, category_id, score, and bbox or segmentation"
        ) from None
    items = found if isinstance(found, list) else found.annotations
    if any(item.rank() is None for item in items):
        raise UserError(f"{option}={path}: a result has no score")
    if categories and any(item.category_id is None for item in items):
        raise UserError(f"{option}={path}: a result has no category_id")
    known = {image.id for image in truth.images}
    results = Results(
        path=path, digest=hashlib.blake2b(content, digest_size=8).hexdigest(), by_image={}
    )
    by_image: dict[ImageId, list[Detection]] = defaultdict(list)
    for item in items:
        if item.image_id not in known:
            results.left_out["result: of an image that the ground truth does not have"] += 1
        elif categories and item.category_id not in truth.categories:
            results.left_out["result: category absent from the ground truth"] += 1
        else:
            by_image[item.image_id].append(item)
    if items and not by_image:
        (reason, _) = results.left_out.most_common(1)[0]
        first = items[0]
        raise UserError(
            f"{option}={path} does not belong to {truth.path}: all {len(items)} results are left "
            f"out ({reason.removeprefix('result: ')}; the first has image_id {first.image_id}, "
            f"category_id {first.category_id})"
        )
    results.by_image = dict(by_image)
    return results


__all__ = ["Box", "Detection", "Results", "read_results"]
