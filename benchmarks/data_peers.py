"""The work of other training codes on one sample of SA-1B, written anew from their sources.

Each takes the bytes of the photo and of its JSON and gives the training tensors, on one thread.
Left out, in their favour: opening two loose files, flips and colour jitter, and copies that only
their structure costs (sam2's frame and object lists, EdgeSAM's stack of all masks).
"""

from __future__ import annotations

import io
import json
import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F

SIDE, CELLS, MASKS = 1024, 256, 64
_MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
_STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None]


def _annotations(data: bytes) -> list[Any]:
    annotations: list[Any] = json.loads(data)["annotations"]
    return annotations


def _photo(data: bytes, *, square: bool) -> tuple[Image.Image, Tensor]:
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIDE / max(photo.size)
    size = tuple(SIDE if square else round(length * scale) for length in photo.size)
    image = np.array(photo.resize((size[0], size[1]), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    return photo, (pixels - _MEAN) / _STD


def pycocotools(jpeg: bytes, data: bytes) -> tuple[Tensor, Tensor]:
    """Load the obvious way: draw, decode what was drawn, resize each to the loss grid (nearest)."""
    _, image = _photo(jpeg, square=False)
    annotations = _annotations(data)
    chosen = random.sample(annotations, min(MASKS, len(annotations)))
    size = (CELLS * image.shape[2] // SIDE, CELLS * image.shape[1] // SIDE)
    masks = [
        np.asarray(
            Image.fromarray(coco.decode(a["segmentation"])).resize(size, Image.Resampling.NEAREST)
        )
        for a in chosen
    ]
    return image, torch.from_numpy(np.stack(masks))


def sam2(jpeg: bytes, data: bytes) -> tuple[Tensor, Tensor]:
    """Load as sam2 `training/`: decode each mask at full size, then resize it by itself to the
    1024 x 1024 input (torchvision's antialiased bilinear, through float back to uint8)."""
    _, image = _photo(jpeg, square=True)
    annotations = [a for a in _annotations(data) if a["area"] > 0]
    chosen = random.sample(annotations, min(MASKS, len(annotations)))
    masks = []
    for annotation in chosen:
        mask = torch.from_numpy(coco.decode(annotation["segmentation"]))[None, None]
        resized = F.interpolate(
            mask.float(), (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
        )
        masks.append(resized.round().to(torch.uint8)[0, 0])
    return image, torch.stack(masks).bool()


def efficientvit(jpeg: bytes, data: bytes) -> tuple[Tensor, Tensor]:
    """Load as efficientvit `samcore/`: resize the drawn masks as one float32 stack with
    antialiasing to the input."""
    _, image = _photo(jpeg, square=False)
    annotations = _annotations(data)
    chosen = random.sample(annotations, min(MASKS, len(annotations)))
    stack = np.stack([coco.decode(a["segmentation"]).astype(np.float32) for a in chosen])
    masks = F.interpolate(
        torch.from_numpy(stack)[None],
        image.shape[1:],
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0]
    return image, masks > 0.5


def edge_sam(jpeg: bytes, data: bytes) -> tuple[Tensor, Tensor]:
    """Load as EdgeSAM: decode and resize every mask as float32; keep 16."""
    _, image = _photo(jpeg, square=False)
    masks = []
    for annotation in _annotations(data):
        mask = torch.from_numpy(coco.decode(annotation["segmentation"]).astype(np.float32))
        masks.append(
            F.interpolate(
                mask[None, None],
                image.shape[1:],
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )[0, 0]
        )
    kept = random.sample(range(len(masks)), min(16, len(masks)))
    return image, torch.stack([masks[k] for k in kept]) > 0.5
