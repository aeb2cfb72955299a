"""Edge maps by a SAM: 16 x 16 points, 768 masks, no filter but box NMS (paper §7.3, D.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from sam_train.data.formats.records import IMAGE_SUFFIXES, SkipImageError
from sam_train.data.photos.jpeg import read_pixels
from sam_train.errors import UserError
from sam_train.eval.tasks.edges.edge_map import edge_map
from sam_train.eval.tasks.edges.readers import Pair
from sam_train.masks.crops import point_grid
from sam_train.masks.frame import InputFrame
from sam_train.masks.nms import nms
from sam_train.model import Sam
from sam_train.runtime.files import write_atomically
from sam_train.runtime.jobs import SkipItem
from sam_train.types import FOREGROUND, PAD, Prompts

Pixels = npt.NDArray[np.uint8]


def pair_photos(images: Path, ground_truth: Path) -> list[Pair]:
    """One pair of photo and truth per ground truth, sorted by name.

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
    """uint8 [H, W, 3] RGB.

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
    """The edge map of a photo.

    Args:
        sam: in evaluation mode.
        photo: uint8 [H, W, 3] RGB.
        points_per_side: of the grid; each point gives three masks.
        nms_iou: of two masks whose boxes overlap more, the one of lower predicted IoU goes.
        points_at_once: decoded at once; bounds memory.

    Returns:
        float32 [H, W] in [0, 1] on the model's device.
    """
    frame = InputFrame(original=(photo.shape[0], photo.shape[1]), side=sam.image_size)
    masks = _masks(sam, photo, frame, points_per_side=points_per_side, at_once=points_at_once)
    present = masks.boxes[:, 2] > masks.boxes[:, 0]
    kept = np.flatnonzero(present)[
        nms(masks.boxes[present], masks.scores[present], threshold=nms_iou)
    ]
    chosen = masks.logits[torch.from_numpy(kept).to(masks.logits.device)]
    if not len(chosen):
        return torch.zeros(frame.original, device=chosen.device)
    # Autocast would round Sobel's sums to bfloat16.
    with torch.autocast(chosen.device.type, enabled=False):
        return edge_map(
            chunk.sigmoid() for chunk in _upscaled(sam, chosen, frame, at_once=points_at_once)
        )


def write_edge_map(edges: Tensor, path: Path) -> None:
    """Write an edge map as other programs do: 8-bit grey, 255 for 1."""
    grey = (edges.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    write_atomically(path, lambda stream: Image.fromarray(grey).save(stream, format="PNG"))


@dataclass(slots=True, kw_only=True)
class _Masks:
    """All 3 P masks of P points."""

    logits: Tensor
    """float16 [3 P, g, g]: 768 of them in float32 would be 200 MB at g = 256."""
    boxes: npt.NDArray[np.int64]
    """[3 P, 4] x0 y0 x1 y1, original frame, the last row and column outside; zeros if empty."""
    scores: npt.NDArray[np.float32]
    """[3 P] predicted IoU."""


def _masks(
    sam: Sam, photo: Pixels, frame: InputFrame, *, points_per_side: int, at_once: int
) -> _Masks:
    device = next(sam.parameters()).device
    resized = frame.resize(Image.fromarray(photo))
    h, w = resized.shape[:2]
    images = torch.zeros(1, 3, sam.image_size, sam.image_size, dtype=torch.uint8)
    images[0, :, :h, :w] = torch.from_numpy(np.array(resized)).permute(2, 0, 1)
    embeddings = sam.encode(images.to(device), torch.tensor([[h, w]], device=device))
    # segment-anything's arithmetic: points of the grid are scaled without a half pixel.
    grid = point_grid(points_per_side) * np.array([w, h])
    g = sam.grid_size
    boxes: list[npt.NDArray[np.generic]] = []
    scores: list[npt.NDArray[np.float32]] = []
    logits = torch.empty(3 * len(grid), g, g, dtype=torch.float16, device=device)
    for asked in torch.split(torch.from_numpy(grid.astype(np.float32)), at_once):
        coords = torch.stack([asked, torch.zeros_like(asked)], dim=1).to(device)
        labels = torch.tensor([[FOREGROUND, PAD]], device=device).expand(len(asked), 2)
        owners = torch.zeros(len(asked), dtype=torch.int64, device=device)
        answer = sam.decode(
            embeddings,
            owners,
            Prompts(coords=coords, labels=labels),
            multimask=True,
            all_present=True,
        )
        found = answer.mask_logits.flatten(0, 1)
        begin = sum(len(few) for few in scores)
        logits[begin : begin + len(found)] = found
        scores.append(answer.iou.float().flatten().cpu().numpy())
        boxes += [
            _boxes(chunk > 0).cpu().numpy() for chunk in _upscaled(sam, found, frame, at_once=64)
        ]
    return _Masks(logits=logits, boxes=np.concatenate(boxes), scores=np.concatenate(scores))


def _upscaled(sam: Sam, logits: Tensor, frame: InputFrame, *, at_once: int) -> Iterator[Tensor]:
    """[n, g, g] logits in the original frame, some masks at a time: float32 [k, H, W]."""
    for chunk in torch.split(logits, at_once) if len(logits) else ():
        yield sam.postprocess(
            chunk[:, None].float(), image_size=frame.size, original_size=frame.original
        )[:, 0]


def _boxes(masks: Tensor) -> Tensor:
    """int64 [n, 4] of bool [n, H, W]; zeros where a mask is empty."""
    rows, columns = masks.any(dim=2), masks.any(dim=1)
    y0, x0 = rows.int().argmax(1), columns.int().argmax(1)
    y1 = masks.shape[1] - rows.flip(1).int().argmax(1)
    x1 = masks.shape[2] - columns.flip(1).int().argmax(1)
    return torch.stack([x0, y0, x1, y1], dim=1) * rows.any(1)[:, None]
