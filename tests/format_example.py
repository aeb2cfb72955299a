"""A data set read in the three ways there are: trained on, evaluated and converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from data_tools import convert
from sam_train.data.sample.decode import BadSample
from sam_train.data.shards.reader import Shards, open_shards
from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets import open_datasets

Mask = npt.NDArray[np.bool_]


def photo(path: Path, *, height: int = 60, width: int = 80, orientation: int = 1) -> Path:
    """Save a photo of noise, `height` x `width` as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif) if orientation != 1 else image.save(path)
    return path


def polygon(points: list[float], *, height: int = 60, width: int = 80) -> Mask:
    """Rasterise x, y, x, y, ... with pycocotools."""
    found: Mask = coco_mask.decode(coco_mask.frPyObjects([points], height, width))[..., 0] > 0
    return found


def block(top: int, bottom: int, left: int, right: int) -> Mask:
    """Return a mask of 60 x 80: rows top .. bottom - 1 and columns left .. right - 1."""
    mask = np.zeros((60, 80), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def ellipse(x: float, y: float, across: float, down: float) -> Mask:
    """Return the pixels of 60 x 80 whose centres lie in an ellipse."""
    rows, columns = np.mgrid[:60, :80] + 0.5
    inside: Mask = ((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 <= 1
    return inside


def overlap(one: Mask, other: Mask) -> float:
    """Return the IoU."""
    return float((one & other).sum() / (one | other).sum())


def trained(entry: Any) -> dict[str, list[Mask]]:
    """Return the masks of every sample that can be used, as `data.train=` reads them."""
    shards = open_shards([entry], option="data.train", formats=True)
    return dict(_samples(shards))


def _samples(shards: Shards) -> list[tuple[str, list[Mask]]]:
    found = []
    for k in range(len(shards)):
        try:
            content = json.loads(shards.read(k).json)
        except BadSample:
            continue
        masks = [coco_mask.decode(a["segmentation"]) > 0 for a in content["annotations"]]
        found.append((shards.key(k).split("/", 1)[1], masks))
    return found


def three_ways(path: Path | str, out: Path, *arguments: str) -> dict[str, list[Mask]]:
    """Return the masks of a data set by photo, which are the same in all three ways.

    Args:
        path: as written in `data.train` and `eval.datasets`, without a kind.
        out: an empty place for the conversion.
        arguments: of `data_tools.convert`, from the kind on.
    """
    found = trained(str(path))
    assert found
    (measured,) = open_datasets(EvalConfig(datasets=[str(path)]))
    scored = {}
    for image in measured.images:
        if image.name in found:
            scored[image.name] = [coco_mask.decode(mask) > 0 for mask in image.load().masks]
    require_equal(found, scored)
    assert convert.main([*arguments, "--out", str(out), "--workers", "0"]) == 0
    converted = _samples(open_shards(str(out), option="data.train"))
    require_equal(found, dict(zip(found, [masks for _, masks in converted], strict=True)))
    return found


def require_equal(one: dict[str, list[Mask]], other: dict[str, list[Mask]]) -> None:
    """Compare masks photo by photo."""
    assert list(one) == list(other)
    for name, masks in one.items():
        assert len(masks) == len(other[name]), name
        for mask, expected in zip(masks, other[name], strict=True):
            assert mask.shape == expected.shape, name
            assert (mask == expected).all(), name
