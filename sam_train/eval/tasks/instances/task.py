"""`evaluate task=instances`: boxes in, masks and their average precision out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pycocotools import mask as coco_mask

from sam_train.eval.coco import Results, Truth, TruthImage, TruthMask, open_truth, read_results
from sam_train.eval.coco.precision import LVIS_MAX_DETECTIONS, average_precision
from sam_train.eval.coco.results import Box
from sam_train.eval.coco.truth import CategoryId, find_truth
from sam_train.eval.frame.records import Record
from sam_train.eval.frame.result import TaskResult
from sam_train.eval.frame.tasks import Run, Task, register
from sam_train.eval.tasks.instances.config import InstancesConfig, check
from sam_train.eval.tasks.instances.film import draw_films
from sam_train.eval.tasks.instances.masks import masks_of_boxes
from sam_train.eval.tasks.instances.result import result_of
from sam_train.model.config import photo_rule
from sam_train.runtime.files import write_text

if TYPE_CHECKING:
    from sam_train.settings.run import RunConfig

_VERSION = 1
"""Version of prompting; raise it when that changes, as it voids older records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceItem:
    """An image of the ground truth."""

    key: str
    image: TruthImage


@dataclass(slots=True, kw_only=True)
class Prompted:
    """A box that is to become a mask."""

    category: CategoryId
    box: Box
    score: float
    """The detector's score."""
    truth: TruthMask | None = None
    """The mask of a ground-truth box."""


@dataclass(slots=True, kw_only=True)
class InstancesPhoto:
    """An image with its boxes."""

    boxes: list[Prompted]
    left_out: Counter[str]
    photo: Any
    """uint8 [H, W, 3]; None where there is nothing to prompt."""


@register
class Instances(Task[InstanceItem]):
    """AP of masks that boxes prompt (paper §7.4, D.4)."""

    name = "instances"
    summary = "instance segmentation: average precision of masks for the boxes of a detector"
    headline = ("", ("AP", "AP50"))
    _truth: Truth
    _given: Results | None = None
    _images: dict[str, TruthImage]

    def check(self, cfg: RunConfig) -> None:
        """Refuse settings that this evaluation cannot run with."""
        own = cfg.instances
        check(own)
        find_truth(own.ground_truth, own.images, cfg.eval.datasets, task=self.name)

    def needs_model(self, cfg: RunConfig) -> bool:
        """Return False for finished masks."""
        return not cfg.instances.results

    def settings(self, cfg: RunConfig) -> Mapping[str, Any]:
        """Return the settings that an item's record depends on."""
        own = cfg.instances
        made = [own.refine, own.max_boxes, cfg.trainer.precision]
        return {"version": _VERSION, "made": None if own.results else made}

    def items(self, run: Run) -> Sequence[InstanceItem]:
        """List the photos to measure."""
        own = run.cfg.instances
        self._truth = open_truth(
            own.ground_truth, own.images, run.cfg.eval.datasets, task=self.name
        )
        self._truth.shown = photo_rule(run.cfg.model)
        source = self._truth.digest
        if given := own.boxes or own.results:
            option = "instances.boxes" if own.boxes else "instances.results"
            self._given = read_results(
                Path(given).expanduser(), self._truth, option=option, categories=True
            )
            source += self._given.digest
        images = self._truth.chosen(run.cfg.eval.images)
        # Finished masks need no photos, so a new photo leaves their records valid.
        photos = [""] * len(images) if own.results else self._truth.photo_stamps(images)
        items = [
            InstanceItem(key=f"{image.key}@{source}{photo}", image=image)
            for image, photo in zip(images, photos, strict=True)
        ]
        self._images = {item.key: item.image for item in items}
        return items

    def load(self, run: Run, item: InstanceItem) -> InstancesPhoto:
        """Read the boxes, best first, and the photo."""
        own, left_out = run.cfg.instances, Counter[str]()
        if own.results:
            return InstancesPhoto(boxes=[], left_out=left_out, photo=None)
        boxes = self._boxes(item.image, left_out)
        boxes.sort(key=lambda each: -each.score)
        # LVIS counts no more than 300 results of an image, so more boxes would only cost time.
        limit = own.max_boxes or (LVIS_MAX_DETECTIONS if self._truth.lvis else None)
        if limit is not None and len(boxes) > limit:
            left_out["box: beyond instances.max_boxes"] += len(boxes) - limit
            boxes = boxes[:limit]
        photo = self._truth.photo(item.image) if boxes else None
        return InstancesPhoto(boxes=boxes, left_out=left_out, photo=photo)

    def measure(self, run: Run, item: InstanceItem, loaded: InstancesPhoto) -> Record:
        """Predict the masks of the boxes, as results."""
        if run.cfg.instances.results:
            return self._finished(item.image)
        left_out = Counter(loaded.left_out)
        if not loaded.boxes:
            return {"results": [], "left_out": dict(left_out)}
        masks = masks_of_boxes(
            run.sam,
            loaded.photo,
            [each.box for each in loaded.boxes],
            refine=run.cfg.instances.refine,
            max_masks=run.cfg.eval.max_masks,
        )
        results = []
        for each, mask in zip(loaded.boxes, masks, strict=True):
            x0, y0, x1, y1 = each.box
            found = {
                "category_id": each.category,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": each.score,
                "predicted_iou": mask.predicted_iou,
                "counts": mask.rle["counts"],
            }
            if each.truth is not None:
                pair = [dict(mask.rle)], [dict(each.truth.rle)]
                found["iou"] = float(coco_mask.iou(*pair, [0])[0, 0])
                found["area"] = each.truth.area
            results.append(found)
        return {"results": results, "left_out": dict(left_out)}

    def summarise(self, run: Run, records: Sequence[Record]) -> TaskResult:
        """Compute AP; also write `instances/results.json`, in COCO's form."""
        own = run.cfg.instances
        images = [self._images[record["key"]] for record in records]
        results = [
            _as_result(image, found, own)
            for image, record in zip(images, records, strict=True)
            for found in record["results"]
        ]
        folder = run.folder(self)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "results.json", json.dumps(results))
        left_out = Counter(self._truth.left_out)
        if self._given is not None:
            left_out.update(self._given.left_out)
        for image, record in zip(images, records, strict=True):
            left_out.update(record["left_out"])
            # The record counts the boxes and results left out; the ground truth's masks are extra.
            left_out.update(self._truth.masks(image)[1])
        masks = average_precision(self._truth, images, results)
        boxes = None
        if own.boxes:
            detected = [
                {"image_id": image.id, **{k: found[k] for k in ("category_id", "score", "bbox")}}
                for image, record in zip(images, records, strict=True)
                for found in record["results"]
            ]
            boxes = average_precision(self._truth, images, detected, kind="bbox")
        ious = [found["iou"] for record in records for found in record["results"] if "iou" in found]
        result = result_of(
            masks,
            boxes,
            lvis=self._truth.lvis,
            name=Path(own.results).name if own.results else Path(run.source).name,
            miou=sum(ious) / len(ious) if ious else None,
            folder=folder,
        )
        result.checkpoint = own.results
        of_what = Path(own.boxes).name if own.boxes else "the ground truth's boxes"
        result.notes.insert(
            0,
            f"{len(images)} images of {self._truth.path.name}, {len(results)} masks"
            + ("" if own.results else f" for {of_what}"),
        )
        result.notes += self._truth.notes
        result.notes += self._given.notes if self._given is not None else []
        if empty := sum(_is_empty(result) for result in results):
            result.notes.append(f"{empty} masks are empty; they count as wrong")
        result.pictures += draw_films(
            self._truth, records, self._images, folder=folder, refine=own.refine
        )
        result.skipped = dict(left_out.most_common())
        result.details["settings"] = asdict(own)
        return result

    def _boxes(self, image: TruthImage, left_out: Counter[str]) -> list[Prompted]:
        if self._given is None:
            # A crowd is no single object, so its box asks for nothing in particular.
            return [
                Prompted(category=mask.category, box=mask.box, score=1.0, truth=mask)
                for mask in self._truth.masks(image)[0]
                if not mask.crowd
            ]
        boxes = []
        for detection in self._given.of(image):
            box, score = detection.box(image), detection.rank()
            if box is None or score is None or detection.category_id is None:
                left_out["box: outside the image, or without area"] += 1
                continue
            boxes.append(Prompted(category=detection.category_id, box=box, score=score))
        return boxes

    def _finished(self, image: TruthImage) -> Record:
        assert self._given is not None
        left_out, results = Counter[str](), []
        for detection in self._given.of(image):
            mask = detection.mask(image)
            if mask is None:
                left_out["result: mask unreadable or of another size"] += 1
                continue
            results.append(
                {
                    "category_id": detection.category_id,
                    "score": detection.rank(),
                    "counts": mask["counts"],
                }
            )
        return {"results": results, "left_out": dict(left_out)}


def _as_result(image: TruthImage, found: Mapping[str, Any], cfg: InstancesConfig) -> dict[str, Any]:
    """Make an entry of COCO's results format."""
    kind = cfg.score
    if kind == "auto":
        kind = "box" if cfg.boxes else "predicted_iou"
    score = found["score"]
    if not cfg.results and kind != "box":
        score = found["predicted_iou"] * (score if kind == "product" else 1.0)
    return {
        "image_id": image.id,
        "category_id": found["category_id"],
        "score": score,
        "segmentation": {"size": [image.height, image.width], "counts": found["counts"]},
    }


def _is_empty(result: Mapping[str, Any]) -> bool:
    return int(coco_mask.area(result["segmentation"])) == 0
