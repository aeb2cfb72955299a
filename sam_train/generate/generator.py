"""The masks of a whole photo: a grid of points on every crop, then filters (paper B).

With equal weights and settings it gives the masks of segment-anything 1.0's
`SamAutomaticMaskGenerator`, in its order and its form. Only masks one pixel wide or high differ,
whose boxes have no area in the reference's arithmetic. The reference returns these as often as it
found them, and this generator once.

It is faster because masks that the IoU head refuses are never scaled up. The others never become
bitmaps, as their runs, areas and boxes come straight from the decoder's grid (`trace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam_train.generate.candidates import Candidates, cut_off, joined
from sam_train.generate.config import MaskConfig, check_masks
from sam_train.generate.existing import Existing
from sam_train.masks.changes import area_of, bitmap, box_of, compressed, run_lengths
from sam_train.masks.crops import Crop, Points, crop_pyramid, point_grids
from sam_train.masks.frame import InputFrame
from sam_train.masks.nms import nms
from sam_train.masks.regions import tidy
from sam_train.masks.trace import trace_masks
from sam_train.model import Sam
from sam_train.model.encoded_photos import (
    EncodedPhotos,
    Pixels,
    check_photo,
    encode_photos,
    point_prompts,
)

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
_WAITING = 4
"""Most batches of logits that wait to be traced; bounds memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposals:
    """The masks of one photo, best first within a crop, small crops first."""

    photo: tuple[int, int]
    """(H, W)."""
    crops: list[Crop]
    """The pyramid that `masks.crops` counts."""
    masks: Candidates


@dataclass(frozen=True, slots=True, kw_only=True)
class _Questions:
    """Points on some encoded crops."""

    crops: Tensor
    """int64 [P], places of the points' crops among the encoded ones."""
    numbers: npt.NDArray[np.int64]
    """[P], places of the points' crops among all crops of the photo."""
    asked: Tensor
    """float64 [P, 2] (x, y), input frame."""
    points: Points
    """[P, 2] (x, y), original frame."""

    def __len__(self) -> int:
        return len(self.points)

    def slice(self, begin: int, end: int) -> _Questions:
        return _Questions(
            crops=self.crops[begin:end],
            numbers=self.numbers[begin:end],
            asked=self.asked[begin:end],
            points=self.points[begin:end],
        )


class AutomaticMaskGenerator:
    """Masks for the whole photo.

    Args:
        model: a `Sam` on any device.
        settings: all settings at once; else `named` has them.
        point_grids: points (x, y) in [0, 1] of each layer, float64 [P, 2], in place of
            `points_per_side`.
        output_mode: form of the "segmentation" of `generate`: binary_mask, uncompressed_rle or
            coco_rle.
        **named: single settings under their names in `MaskConfig`, which are segment-anything's.

    Raises:
        UserError: a setting is out of its range.
        ValueError: an unknown output_mode, or fewer grids than layers.
    """

    def __init__(
        self,
        model: Sam,
        settings: MaskConfig | None = None,
        *,
        point_grids: Sequence[Points] | None = None,
        output_mode: str = "binary_mask",
        **named: Any,
    ) -> None:
        if settings is not None and named:
            raise ValueError(f"give settings or {', '.join(named)}, not both")
        self.model = model
        self.settings = settings or MaskConfig(**named)
        check_masks(self.settings)
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f"output_mode={output_mode} is not one of {', '.join(OUTPUT_MODES)}")
        self.output_mode = output_mode
        self._grids = self._grids_of(point_grids)

    def _grids_of(self, given: Sequence[Points] | None) -> list[Points]:
        layers = self.settings.crop_n_layers
        if given is None:
            return point_grids(
                self.settings.points_per_side,
                layers=layers,
                downscale_factor=self.settings.crop_n_points_downscale_factor,
            )
        if len(given) <= layers:
            raise ValueError(f"{len(given)} point_grids for {layers + 1} layers of crops")
        return list(given)

    def generate(self, image: Pixels, existing: Existing | None = None) -> list[dict[str, Any]]:
        """Find the masks and return them as segment-anything's class does.

        Args:
            image: uint8 [H, W, 3], RGB.
            existing: masks that the photo has already.

        Returns:
            For each mask segmentation, area, bbox [x, y, w, h] (w and h are last minus first
            pixel), predicted_iou, point_coords [[x, y]], stability_score and crop_box.
        """
        found = self.propose(image, existing)
        masks = found.masks
        records = []
        for k, changes in enumerate(masks.changes):
            x0, y0, x1, y1 = masks.boxes[k].tolist()
            segmentation: Any
            if self.output_mode == "binary_mask":
                segmentation = bitmap(changes, found.photo)
            elif self.output_mode == "coco_rle":
                segmentation = compressed(changes, found.photo)
            else:
                lengths = run_lengths(changes, found.photo)
                segmentation = {"size": list(found.photo), "counts": lengths}
            records.append(
                {
                    "segmentation": segmentation,
                    "area": int(masks.areas[k]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "predicted_iou": float(masks.iou[k]),
                    "point_coords": [masks.points[k].tolist()],
                    "stability_score": float(masks.stability[k]),
                    "crop_box": found.crops[masks.crops[k]].xywh,
                }
            )
        return records

    @torch.inference_mode()
    def propose(self, image: Pixels, existing: Existing | None = None) -> Proposals:
        """Find the masks of a photo as runs; takes what `generate` takes.

        Raises:
            ValueError: not an RGB photo of bytes.
        """
        image = check_photo(image)
        cfg = self.settings
        photo = (image.shape[0], image.shape[1])
        pyramid = crop_pyramid(
            *photo, layers=cfg.crop_n_layers, overlap_ratio=cfg.crop_overlap_ratio
        )
        # A photo of a few pixels has fewer crops than its layers ask for: the last are empty.
        crops = [crop for crop in pyramid if crop.width > 0 and crop.height > 0]
        by_crop: list[list[Candidates]] = [[] for _ in crops]
        for part in self._traced(image, crops, existing):
            for number in np.unique(part.crops).tolist():
                by_crop[number].append(part.take(part.crops == number))
        unique = [joined(parts) for parts in by_crop]
        unique = [
            m.take(nms(m.boxes, m.iou, threshold=cfg.box_nms_thresh, lines=True)) for m in unique
        ]
        masks = joined(unique)
        if len(pyramid) > 1:
            sizes = np.array([crop.width * crop.height for crop in crops])
            # Of two crops' masks that of the smaller crop stays, which saw the object larger.
            nearness = np.float32(1) / sizes[masks.crops].astype(np.float32)
            masks = masks.take(
                nms(masks.boxes, nearness, threshold=cfg.crop_nms_thresh, lines=True)
            )
        if cfg.min_mask_region_area > 0:
            masks = self._tidied(masks, photo)
        return Proposals(photo=photo, crops=crops, masks=masks)

    def _traced(
        self, image: Pixels, crops: list[Crop], existing: Existing | None
    ) -> Iterator[Candidates]:
        """Yield the masks that pass the filters, by batch of points and crop after crop."""
        photo = (image.shape[0], image.shape[1])
        # Tracing on the CPU runs beside the decoder. In a queue, because results must keep the
        # order of the points, whichever is traced first.
        waiting: deque[Future[Candidates]] = deque()
        with ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
            for first in range(0, len(crops), self.settings.crops_per_batch):
                group = crops[first : first + self.settings.crops_per_batch]
                questions = self._questions(group, first, existing)
                if not len(questions):
                    continue
                encoded = encode_photos(
                    self.model, [image[c.y0 : c.y1, c.x0 : c.x1] for c in group]
                )
                for begin in range(0, len(questions), self.settings.points_per_batch):
                    part = questions.slice(begin, begin + self.settings.points_per_batch)
                    logits, iou, kept = self._believed(encoded, part)
                    for number in np.unique(part.numbers[kept]).tolist():
                        own = part.numbers[kept] == number
                        job = pool.submit(
                            self._filtered,
                            logits[own],
                            crops[number],
                            photo=photo,
                            iou=iou[own],
                            points=part.points[kept][own],
                            number=number,
                            existing=existing,
                        )
                        waiting.append(job)
                    while len(waiting) > _WAITING:
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _questions(
        self, group: Sequence[Crop], first: int, existing: Existing | None
    ) -> _Questions:
        """Place the grid's points on some crops, leaving out those on an existing mask."""
        crops, asked, points = [], [], []
        for k, crop in enumerate(group):
            size = np.array([crop.width, crop.height])
            # As in segment-anything, without a half pixel.
            inside = self._grids[crop.layer] * size
            original = inside + np.array([crop.x0, crop.y0])
            if existing is not None:
                free = existing.free(original)
                inside, original = inside[free], original[free]
            height, width = InputFrame(
                original=(crop.height, crop.width), side=self.model.image_size
            ).size
            asked.append(inside * np.array([width / crop.width, height / crop.height]))
            points.append(original)
            crops.append(np.full(len(inside), k))
        owners = np.concatenate(crops)
        return _Questions(
            crops=torch.from_numpy(owners),
            numbers=owners + first,
            asked=torch.from_numpy(np.concatenate(asked)),
            points=np.concatenate(points),
        )

    def _believed(
        self, encoded: EncodedPhotos, questions: _Questions
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Decode some points and keep the masks of high predicted IoU.

        Returns:
            Logits [n, g, g], predicted IoU [n] and the question [n] that each mask answers.
        """
        answer = encoded.decode(
            point_prompts(questions.asked), questions.crops, multimask=True, all_present=True
        )
        iou = answer.iou.float().cpu()
        threshold = self.settings.pred_iou_thresh
        kept = iou > threshold if threshold > 0 else torch.ones_like(iou, dtype=torch.bool)
        logits = answer.mask_logits[kept.to(answer.mask_logits.device)].float().cpu()
        return logits.numpy(), iou[kept].numpy(), kept.nonzero()[:, 0].numpy()

    def _filtered(
        self,
        logits: npt.NDArray[np.float32],
        crop: Crop,
        *,
        photo: tuple[int, int],
        iou: npt.NDArray[np.float32],
        points: Points,
        number: int,
        existing: Existing | None,
    ) -> Candidates:
        """Trace the masks of one crop to the original frame and apply every filter but the NMS."""
        cfg = self.settings
        traced = trace_masks(
            logits,
            crop=crop,
            photo=photo,
            image_size=self.model.image_size,
            offset=cfg.stability_score_offset,
        )
        masks = Candidates(
            changes=traced.changes,
            areas=traced.areas,
            boxes=traced.boxes + np.array([crop.x0, crop.y0, crop.x0, crop.y0]),
            iou=iou,
            stability=traced.stability,
            points=points,
            crops=np.full(len(iou), number),
        )
        # Empty masks go here, which the reference keeps where no stability threshold is set.
        good = ~cut_off(masks.boxes, crop, photo) & (masks.areas > 0)
        if cfg.stability_score_thresh > 0:
            good &= masks.stability >= np.float32(cfg.stability_score_thresh)
        if cfg.max_area_fraction is not None:
            good &= masks.areas < cfg.max_area_fraction * photo[0] * photo[1]
        masks = masks.take(good)
        if existing is None:
            return masks
        overlaps = [
            existing.best_iou(*mask)
            for mask in zip(masks.changes, masks.boxes, masks.areas.tolist(), strict=True)
        ]
        return masks.take(np.array(overlaps) < cfg.existing_iou_thresh)

    def _tidied(self, masks: Candidates, photo: tuple[int, int]) -> Candidates:
        """Remove small holes and islands, then masks that became duplicates by that."""
        cfg = self.settings
        intact = np.ones(len(masks), np.float32)
        for k, changes in enumerate(masks.changes):
            clean = tidy(
                changes,
                photo,
                min_area=cfg.min_mask_region_area,
                keep_largest=not cfg.drop_small_masks,
            )
            if clean.altered:
                # Of two masks that overlap the unaltered one stays, as its score is higher.
                intact[k] = 0
                masks.changes[k] = clean.changes
                masks.areas[k] = area_of(clean.changes, photo)
                masks.boxes[k] = box_of(clean.changes, photo)
        if cfg.drop_small_masks:
            left = masks.areas > 0
            masks, intact = masks.take(left), intact[left]
        threshold = max(cfg.box_nms_thresh, cfg.crop_nms_thresh)
        return masks.take(nms(masks.boxes, intact, threshold=threshold, lines=True))
