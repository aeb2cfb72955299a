"""Edge maps by a SAM of 16 x 16 points, whose 768 masks only box NMS filters (paper §7.3, D.2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sam_train.data.formats.records import IMAGE_SUFFIXES
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.jpeg import read_pixels
from sam_train.errors import UserError
from sam_train.eval.tasks.edges.edge_map import edge_map
from sam_train.eval.tasks.edges.readers import Pair
from sam_train.masks.crops import point_grid
from sam_train.masks.nms import nms
from sam_train.model import Sam
from sam_train.model.encoded_photos import (
    EncodedPhotos,
    Pixels,
    encode_photos,
    point_prompts,
    split_prompts,
)
from sam_train.runtime.files import write_atomically
from sam_train.runtime.jobs import SkipItem


def pair_photos(images: Path, ground_truth: Path) -> list[Pair]:
    """Pair every ground truth with its photo, sorted by name.

    Raises:
        UserError: a folder is missing or holds no ground truth, or a photo is missing.
    """
    for folder, option in ((images, "edges.images"), (ground_truth, "edges.ground_truth")):
        if not folder.is_dir():
            raise UserError(f"{option}={folder} is not a folder")
    found = {
        path.stem: path
        for path in sorted(images.iterdir(), reverse=True)
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    truths = sorted(ground_truth.glob("*.mat"))
    if not truths:
        raise UserError(f"edges.ground_truth={ground_truth} holds no .mat files of BSDS")
    if missing := [path.stem for path in truths if path.stem not in found]:
        raise UserError(
            f"edges.images={images} has no photo for {len(missing)} of {len(truths)} ground "
            f"truths, {', '.join(missing[:3])} among them"
        )
    return [Pair(name=path.stem, edges=found[path.stem], truth=path) for path in truths]


def read_photo(path: Path) -> Pixels:
    """Read a photo: uint8 [H, W, 3] RGB.

    Raises:
        SkipItem: the file is damaged.
    """
    try:
        return read_pixels(path)
    except SkipImageError as error:
        raise SkipItem(error.reason, error.detail) from None


@torch.no_grad()
def edge_map_of(
    sam: Sam, photo: Pixels, *, points_per_side: int, nms_iou: float, points_at_once: int = 32
) -> Tensor:
    """Make the edge map of a photo.

    Args:
        sam: in evaluation mode.
        photo: uint8 [H, W, 3] RGB.
        points_per_side: of the grid; each point gives three masks.
        nms_iou: box IoU above which the mask of lower predicted IoU is dropped.
        points_at_once: decoded at once; bounds memory.

    Returns:
        float32 [H, W] in [0, 1] on the model's device.
    """
    encoded = encode_photos(sam, [photo])
    masks = _masks(encoded, points_per_side=points_per_side, at_once=points_at_once)
    # Empty masks have boxes of zeros and no edge.
    present = masks.boxes[:, 2] > masks.boxes[:, 0]
    kept = np.flatnonzero(present)[
        nms(masks.boxes[present], masks.scores[present], threshold=nms_iou)
    ]
    chosen = masks.logits[torch.from_numpy(kept).to(masks.logits.device)]
    if not len(chosen):
        return torch.zeros(photo.shape[:2], device=chosen.device)
    # Autocast would round Sobel's sums to bfloat16.
    with torch.autocast(chosen.device.type, enabled=False):
        return edge_map(
            chunk[:, 0].sigmoid()
            for chunk in encoded.upscaled(chosen[:, None], at_once=points_at_once)
        )


def write_edge_map(edges: Tensor, path: Path) -> None:
    """Write an edge map as other programs do, in 8-bit grey with 255 for 1. The write is atomic."""
    grey = (edges.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    write_atomically(path, lambda stream: Image.fromarray(grey).save(stream, format="PNG"))


@dataclass(slots=True, kw_only=True)
class _Masks:
    """The 3 P masks of P points."""

    logits: Tensor
    """float16 [3 P, g, g], as 768 of them in float32 would be 200 MB at g = 256."""
    boxes: npt.NDArray[np.int64]
    """[3 P, 4] x0 y0 x1 y1, original frame, exclusive at the end; zeros if empty."""
    scores: npt.NDArray[np.float32]
    """[3 P] predicted IoU."""


def _masks(encoded: EncodedPhotos, *, points_per_side: int, at_once: int) -> _Masks:
    """Decode every point of the grid and measure the boxes of its masks."""
    h, w = encoded.sizes[0]
    # As segment-anything does, points of the grid are scaled without a half pixel.
    grid = point_grid(points_per_side) * np.array([w, h])
    g, device = encoded.sam.grid_size, encoded.embeddings.device
    boxes: list[npt.NDArray[np.generic]] = []
    scores: list[npt.NDArray[np.float32]] = []
    logits = torch.empty(3 * len(grid), g, g, dtype=torch.float16, device=device)
    for asked in split_prompts(point_prompts(torch.from_numpy(grid.astype(np.float32))), at_once):
        answer = encoded.decode(asked, multimask=True, all_present=True)
        found = answer.mask_logits.flatten(0, 1)
        begin = sum(len(few) for few in scores)
        logits[begin : begin + len(found)] = found
        scores.append(answer.iou.float().flatten().cpu().numpy())
        boxes += [
            _boxes(chunk[:, 0] > 0).cpu().numpy()
            for chunk in encoded.upscaled(found[:, None], at_once=64)
        ]
    return _Masks(logits=logits, boxes=np.concatenate(boxes), scores=np.concatenate(scores))


def _boxes(masks: Tensor) -> Tensor:
    """Measure boxes of bool [n, H, W]: int64 [n, 4], zeros where a mask is empty."""
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    # argmax gives the first of equal maxima: the first row and column that have a pixel.
    y0, x0 = rows.int().argmax(1), columns.int().argmax(1)
    y1 = masks.shape[1] - rows.flip(1).int().argmax(1)
    x1 = masks.shape[2] - columns.flip(1).int().argmax(1)
    return torch.stack([x0, y0, x1, y1], dim=1) * rows.any(1)[:, None]
