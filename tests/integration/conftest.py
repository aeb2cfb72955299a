"""Tiny shards and the settings of a run that takes seconds."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco

Files = list[tuple[str, bytes]]
HEIGHT, WIDTH = 48, 64

TINY = [
    "model=vit_t",
    "model.image_size=64",
    "data.workers=0",
    "data.batch_size=2",
    "data.masks_per_image=2",
    "prompts.points=1",
    "prompts.mask_only=0",
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.log_every=1",
]
"""Two steps of two rounds."""


def photo(number: int) -> bytes:
    """A JPEG of noise."""
    rng = np.random.default_rng(number)
    out = io.BytesIO()
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "JPEG")
    return out.getvalue()


def rectangles() -> npt.NDArray[np.uint8]:
    """Two masks of a photo."""
    masks = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
    masks[0, 5:30, 8:40], masks[1, 20:45, 30:60] = 1, 1
    return masks


def record(masks: npt.NDArray[np.uint8]) -> bytes:
    """A JSON of SA-1B's form."""
    annotations: list[dict[str, Any]] = []
    for k, mask in enumerate(masks):
        rle = coco.encode(np.asfortranarray(mask))
        segmentation = {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()}
        annotations.append({"id": k, "segmentation": segmentation})
    return json.dumps({"annotations": annotations}).encode()


def good(count: int, *, first: int = 0) -> Files:
    """Both files of each of some good samples."""
    return [
        file
        for k in range(first, first + count)
        for file in ((f"sa_{k}.jpg", photo(k)), (f"sa_{k}.json", record(rectangles())))
    ]


def pack(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """A tar of the files."""
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Tiny:
    """What the tests make their runs of."""

    settings = TINY
    photo = staticmethod(photo)
    rectangles = staticmethod(rectangles)
    record = staticmethod(record)
    good = staticmethod(good)
    pack = staticmethod(pack)


@pytest.fixture(scope="session")
def tiny() -> type[Tiny]:
    """The functions of this file, as conftest cannot be imported."""
    return Tiny


@pytest.fixture(autouse=True)
def _ranks_are_forked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files whose text is to stay as it is start their ranks without importing everything."""
    if request.path.stem == "test_resume_hashes":
        monkeypatch.setattr(sys, "executable", forked.python())
