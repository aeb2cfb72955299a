"""Small shards of random shapes, written with tarfile and pycocotools, not with our own tools."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco

Files = list[tuple[str, bytes]]


def ellipses(count: int, *, height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """uint8 [count, height, width] of {0, 1}, none empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        cy, cx = rng.integers(0, height), rng.integers(0, width)
        ry, rx = rng.uniform(0.5, height / 3), rng.uniform(0.5, width / 3)
        masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)
    return np.array(masks, dtype=np.uint8)


def photo(height: int, width: int, *, seed: int) -> bytes:
    """A JPEG of smooth noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


def record(number: int, masks: npt.NDArray[np.uint8]) -> bytes:
    """The JSON of `sa_{number}.jpg`."""
    annotations = []
    for k, mask in enumerate(masks):
        rle = coco.encode(np.asfortranarray(mask))
        segmentation = {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()}
        annotations.append({"id": k, "area": float(mask.sum()), "segmentation": segmentation})
    height, width = masks.shape[1:]
    image = {"image_id": number, "width": width, "height": height, "file_name": f"sa_{number}.jpg"}
    return json.dumps({"annotations": annotations, "image": image}).encode()


def sample_files(number: int, *, height: int = 30, width: int = 44, masks: int = 6) -> Files:
    """Both files of one good sample."""
    shapes = ellipses(masks, height=height, width=width, seed=number)
    return [
        (f"sa_{number}.jpg", photo(height, width, seed=number)),
        (f"sa_{number}.json", record(number, shapes)),
    ]


def pack(
    path: Path, files: Iterable[tuple[str, bytes]], *, format: int = tarfile.GNU_FORMAT
) -> Path:
    """A tar of the files."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


class Make:
    """What the tests write their files with."""

    ellipses = staticmethod(ellipses)
    photo = staticmethod(photo)
    record = staticmethod(record)
    sample_files = staticmethod(sample_files)
    pack = staticmethod(pack)


@pytest.fixture(scope="session")
def make() -> type[Make]:
    """The functions of this file, as conftest cannot be imported."""
    return Make


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Path]:
    """Writes a shard of n good samples, with more files behind them."""

    def write(
        n: int, *extra: tuple[str, bytes], name: str = "sa_000000.tar", first: int = 0
    ) -> Path:
        files = [f for i in range(first, first + n) for f in sample_files(i)]
        return pack(tmp_path / name, [*files, *extra])

    return write
