"""The ground truth of COCO or LVIS with what their figures need: categories, areas, crowds."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from data_tools.convert_photo import read_pixels
from data_tools.readers.coco import parse_segmentation
from data_tools.readers.records import SkipImageError
from sam_train.errors import UserError
from sam_train.eval.datasets.spec import find_paths, read_specs
from sam_train.eval.stamp import stamp
from sam_train.eval.tasks import SkipItem
from sam_train.types import RLE

FREQUENCIES = {"f": "frequent", "c": "common", "r": "rare"}
"""LVIS's letters: categories in more than 100, 11 to 100, at most 10 training images."""

ImageId = int | str


class TruthImage(msgspec.Struct, kw_only=True):
    """An entry of `images`."""

    id: ImageId
    height: int
    width: int
    file_name: str = ""
    coco_url: str = ""
    neg_category_ids: list[int] | None = None
    """LVIS: categories that are known to be absent."""
    not_exhaustive_category_ids: list[int] | None = None
    """LVIS: categories of which not every instance is marked."""


class TruthCategory(msgspec.Struct, kw_only=True):
    """An entry of `categories`."""

    id: int
    name: str = ""
    frequency: str | None = None
    """LVIS: f, c or r."""


class _Annotation(msgspec.Struct, kw_only=True):
    id: int
    image_id: ImageId
    category_id: int
    # Kept as text until it is needed, see data_tools.readers.coco.
    segmentation: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    area: float | None = None
    bbox: list[float] | None = None
    iscrowd: int | bool = 0


class _File(msgspec.Struct):
    images: list[TruthImage]
    annotations: list[_Annotation]
    categories: list[TruthCategory]


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthMask:
    """One annotation, original frame."""

    id: int
    category: int
    rle: RLE
    area: float
    """As the file says, by which small, medium and large are told; else the mask's pixels."""
    box: tuple[float, float, float, float]
    """x0 y0 x1 y1, edges in pixels: as the file says, else around the mask."""
    crowd: bool


@dataclass(slots=True, kw_only=True)
class Truth:
    """A whole file."""

    path: Path
    photos: Path
    """The folder of the images."""
    images: list[TruthImage]
    categories: dict[int, TruthCategory]
    lvis: bool
    """Has frequencies and lists of absent categories."""
    digest: str
    """Of the file's content."""
    left_out: Counter[str] = field(default_factory=Counter)
    annotations: dict[ImageId, list[_Annotation]] = field(default_factory=dict)

    def masks(self, image: TruthImage) -> tuple[list[TruthMask], Counter[str]]:
        """The usable annotations of an image, and those left out, by reason."""
        found, left_out = [], Counter[str]()
        for item in self.annotations.get(image.id, []):
            try:
                mask = parse_segmentation(bytes(item.segmentation), image.height, image.width)
            except (ValueError, OverflowError):
                left_out["mask: bad segmentation"] += 1
                continue
            rle = RLE(size=mask["size"], counts=mask["counts"])
            pixels = int(coco_mask.area(rle))
            if tuple(mask["size"]) != (image.height, image.width):
                left_out["mask: size differs from the image's"] += 1
            elif pixels == 0:
                left_out["mask: empty"] += 1
            else:
                found.append(
                    TruthMask(
                        id=item.id,
                        category=item.category_id,
                        rle=rle,
                        area=float(pixels) if item.area is None else item.area,
                        box=_corners(item.bbox, rle),
                        crowd=bool(item.iscrowd),
                    )
                )
        return found, left_out

    def photo(self, image: TruthImage) -> npt.NDArray[np.uint8]:
        """uint8 [H, W, 3], RGB.

        Raises:
            SkipItem: it is missing or damaged, or not of the size that the file says.
        """
        size = (image.height, image.width)
        path = self._path(image)
        try:
            pixels = read_pixels(path, mask_sizes={size})
        except SkipImageError as error:
            raise SkipItem(error.reason, error.detail) from None
        if pixels.shape[:2] != size:
            raise SkipItem(
                "size differs from the ground truth's", f"{path}: {pixels.shape[:2]}, not {size}"
            )
        return pixels

    def photo_stamps(self, images: Sequence[TruthImage]) -> list[str]:
        """Of each image's photo: another one under the same name has another stamp."""
        with ThreadPoolExecutor() as pool:
            paths = pool.map(self._path, images)
            return list(pool.map(lambda path: stamp(str(path), files=[path]), paths))

    def _path(self, image: TruthImage) -> Path:
        # LVIS names photos by URL and splits COCO's anew: its val has some of train2017.
        parts = urlsplit(image.coco_url).path.strip("/").split("/")
        names = [image.file_name, "/".join(parts[-2:]), parts[-1]]
        paths = [self.photos / name for name in names if name]
        return next((path for path in paths if path.is_file()), paths[0] if paths else self.photos)

    def chosen(self, limit: int | None) -> list[TruthImage]:
        """All images, or so many of them: always the same, whatever their order in the file."""
        if limit is None or limit >= len(self.images):
            return self.images
        draws = {i.id: hashlib.blake2b(str(i.id).encode()).digest() for i in self.images}
        taken = set(sorted(draws, key=draws.__getitem__)[:limit])
        return [image for image in self.images if image.id in taken]


def open_truth(path: str, photos: str, datasets: Any, *, task: str) -> Truth:
    """The ground truth of `TASK.ground_truth` and `TASK.images`, else the only COCO or LVIS set of
    `eval.datasets`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    return read_truth(*find_truth(path, photos, datasets, task=task))


def find_truth(path: str, photos: str, datasets: Any, *, task: str) -> tuple[Path, Path]:
    """The file and the folder of photos that `open_truth` reads.

    Raises:
        UserError: there is none.
    """
    if path:
        file = Path(path).expanduser()
        folder = Path(photos).expanduser() if photos else file.parent / "images"
        if not photos and not folder.is_dir():
            folder = file.parent
        return file, folder
    specs = [s for s in read_specs(datasets) if s.reader in ("coco", "lvis")] if datasets else []
    if len(specs) != 1:
        why = f"eval.datasets has {len(specs)} of COCO's or LVIS's kind" if specs else "it is not"
        raise UserError(
            f"{task}.ground_truth is not set ({why}): name a COCO or LVIS JSON, and "
            f"{task}.images=FOLDER with its photos"
        )
    images, annotations = find_paths(specs[0])
    return annotations, images


def read_truth(path: Path, photos: Path) -> Truth:
    """Read a COCO or LVIS instances JSON.

    Annotations of images or categories that the file does not list are left out and counted.

    Raises:
        UserError: a path is missing, or the file is not of that form.
    """
    if not photos.is_dir():
        raise UserError(f"the photos' folder {photos} does not exist")
    try:
        content = path.read_bytes()
        file = msgspec.json.decode(content, type=_File)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is no COCO or LVIS ground truth ({error}): it needs `images`, `categories` "
            "and `annotations` with id, image_id, category_id, segmentation"
        ) from None
    truth = Truth(
        path=path,
        photos=photos,
        images=file.images,
        categories={category.id: category for category in file.categories},
        lvis=bool(file.categories)
        and all(c.frequency in FREQUENCIES for c in file.categories)
        and all(i.neg_category_ids is not None for i in file.images),
        digest=hashlib.blake2b(content, digest_size=8).hexdigest(),
    )
    by_image: dict[ImageId, list[_Annotation]] = defaultdict(list)
    known = {image.id for image in file.images}
    if len(known) < len(file.images):
        raise UserError(f"{path}: two images have the same id; make them unique")
    for item in file.annotations:
        if item.image_id not in known:
            truth.left_out["mask: unknown image_id"] += 1
        elif item.category_id not in truth.categories:
            truth.left_out["mask: category absent from `categories`"] += 1
        else:
            by_image[item.image_id].append(item)
    truth.annotations = dict(by_image)
    return truth


def _corners(box: Sequence[float] | None, rle: RLE) -> tuple[float, float, float, float]:
    if box is None or len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        box = coco_mask.toBbox(rle).tolist()
    x, y, w, h = box
    return x, y, x + w, y + h


__all__ = [
    "FREQUENCIES",
    "ImageId",
    "Truth",
    "TruthCategory",
    "TruthImage",
    "TruthMask",
    "find_truth",
    "open_truth",
    "read_truth",
]
