"""segment-anything 1.0's mask generator, running without torchvision and OpenCV.

torchvision has no CPU build. The few functions that the generator takes from the two packages are
written here anew, from their documentation and in the plainest way: loops over boxes, scipy's
labels. They are the ground that comparisons stand on, so they share no code with sam_train.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """torchvision.ops.boxes.box_area."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """torchvision.ops.boxes.batched_nms of one class."""
    assert not idxs.any()
    areas = box_area(boxes)
    left = scores.sort(descending=True, stable=True).indices
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        both = (high - low).clamp(min=0).prod(dim=1)
        overlap = both / (areas[best] + areas[left] - both)
        # In float64, as its C++ compares; the NaN of two boxes without area suppresses nothing.
        left = left[~(overlap.double() > iou_threshold)]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def connected_components(mask: npt.NDArray[np.uint8], connectivity: int) -> tuple[Any, ...]:
    """cv2.connectedComponentsWithStats, of whose statistics only the area is filled in."""
    assert connectivity == 8
    labels, number = ndimage.label(mask, np.ones((3, 3)))
    stats = np.zeros((number + 1, 5), dtype=np.int32)
    stats[:, -1] = np.bincount(labels.ravel(), minlength=number + 1)
    return number + 1, labels, stats, None


def _stand_ins() -> dict[str, ModuleType]:
    functions: dict[str, dict[str, Any]] = {
        "torchvision": {},
        "torchvision.ops": {},
        "torchvision.ops.boxes": {"batched_nms": batched_nms, "box_area": box_area},
        "torchvision.transforms": {},
        "torchvision.transforms.functional": {
            "resize": lambda image, size: image.resize(size[::-1], Image.Resampling.BILINEAR),
            "to_pil_image": Image.fromarray,
        },
        "cv2": {"connectedComponentsWithStats": connected_components},
    }
    modules = {}
    for name, members in functions.items():
        modules[name] = ModuleType(name)
        for member, function in members.items():
            setattr(modules[name], member, function)
    return modules


def load() -> Any:
    """Import segment-anything 1.0 on the stand-ins, which nobody else gets to see.

    Its own `cv2` is imported in the moment of use: see `with_cv2`.
    """
    modules = _stand_ins()
    hidden = {name: sys.modules.get(name) for name in modules if name != "cv2"}
    sys.modules.update({name: modules[name] for name in hidden})
    try:
        package = importlib.import_module("segment_anything")
        # Somebody may have imported it on empty stubs before.
        generator = importlib.import_module("segment_anything.automatic_mask_generator")
        generator.batched_nms, generator.box_area = batched_nms, box_area
        scaling = importlib.import_module("segment_anything.utils.transforms")
        functional = modules["torchvision.transforms.functional"]
        scaling.resize, scaling.to_pil_image = functional.resize, functional.to_pil_image
    finally:
        # Others (transformers) look for torchvision to decide what they can do.
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return package


def with_cv2() -> ModuleType:
    """Return what to put into `sys.modules["cv2"]` while the reference removes small regions."""
    return _stand_ins()["cv2"]
