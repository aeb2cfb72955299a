"""The ground truth of COCO or LVIS with categories, areas and crowds, which their figures need."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from sam_train.data.formats.coco import photo_size
from sam_train.data.formats.coco_file import (
    CocoAnnotation,
    CocoFile,
    CocoImage,
    as_number_value,
    read_coco,
)
from sam_train.data.formats.foreign_json import as_json
from sam_train.data.formats.ids import IdIndex, as_id, as_number, sort_key
from sam_train.data.formats.photo_names import FoundPhoto, find_photos, rename_note
from sam_train.data.formats.segmentation import LARGEST_FRACTION, parse_segmentation
from sam_train.data.formats.spec import find_paths, read_specs
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.jpeg import read_pixels
from sam_train.data.photos.rule import PhotoRule
from sam_train.errors import UserError
from sam_train.runtime.fingerprint import files_fingerprint
from sam_train.runtime.jobs import SkipItem
from sam_train.types import RLE

FREQUENCIES = {"f": "frequent", "c": "common", "r": "rare"}
"""LVIS's letters: categories in more than 100, 11 to 100, at most 10 training images."""

ImageId = int | str
CategoryId = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthImage:
    """An entry of `images`."""

    id: ImageId
    height: int
    width: int
    path: Path
    """Path of the photo, or of the one that should be there if it is missing."""
    key: str
    """Name in records, unique among the images."""
    neg_category_ids: tuple[CategoryId, ...] | None = None
    """LVIS: categories that are known to be absent."""
    not_exhaustive_category_ids: tuple[CategoryId, ...] | None = None
    """LVIS: categories of which not every instance is marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthCategory:
    """An entry of `categories`."""

    id: CategoryId
    name: str = ""
    frequency: str | None = None
    """LVIS: f, c or r."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthMask:
    """An annotation, original frame."""

    id: ImageId | None
    category: CategoryId
    rle: RLE
    area: float
    """The file's area, which decides between small, medium and large; else the mask's pixels."""
    box: tuple[float, float, float, float]
    """x0 y0 x1 y1, edges in pixels: the file's box, else the one around the mask."""
    crowd: bool


@dataclass(slots=True, kw_only=True)
class Truth:
    """The content of a ground-truth file."""

    path: Path
    photos: Path
    """The folder of the images."""
    images: list[TruthImage]
    categories: dict[CategoryId, TruthCategory]
    lvis: bool
    """True where the file has frequencies and lists of absent categories."""
    digest: str
    """Fingerprint of the file's content."""
    image_index: IdIndex
    """Places in `images`, by ids in the form of any file."""
    category_index: IdIndex
    """Places in `categories`, by ids in the form of any file."""
    normalised: bool = False
    """True where coordinates are fractions of the photos' width and height."""
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Sentences for people about oddities of the file that were accepted."""
    shown: PhotoRule = field(default_factory=PhotoRule)
    """The way that photos beyond 8-bit RGB are shown."""
    annotations: dict[ImageId, list[tuple[CategoryId, CocoAnnotation]]] = field(
        default_factory=dict
    )

    def image(self, value: Any) -> TruthImage | None:
        """Return the only image that matches an id of another file, or None."""
        places = self.image_index.find(value)
        return self.images[places[0]] if len(places) == 1 else None

    def category(self, value: Any) -> CategoryId | None:
        """Return the id of the only category that matches an id of another file, or None."""
        places = self.category_index.find(value)
        return list(self.categories)[places[0]] if len(places) == 1 else None

    def masks(self, image: TruthImage) -> tuple[list[TruthMask], Counter[str]]:
        """Return the usable annotations of an image, and those left out, by reason."""
        found, left_out = [], Counter[str]()
        for category, item in self.annotations.get(image.id, []):
            if nothing := item.nothing:
                left_out[f"mask: {nothing}"] += 1
                continue
            try:
                mask = parse_segmentation(
                    bytes(item.segmentation),
                    image.height,
                    image.width,
                    normalised=self.normalised,
                )
            except (ValueError, OverflowError):
                left_out["mask: bad segmentation"] += 1
                continue
            rle = RLE(size=mask["size"], counts=mask["counts"])
            # Counted, because the file's own area may be of the polygon, or missing.
            pixels = int(coco_mask.area(rle))
            if tuple(mask["size"]) != (image.height, image.width):
                left_out["mask: size differs from the image's"] += 1
            elif pixels == 0:
                left_out["mask: empty"] += 1
            else:
                area = as_number_value(item.area)
                # An area in fractions of the photo says nothing about small and large.
                area = None if self.normalised and area is not None and area <= 1 else area
                found.append(
                    TruthMask(
                        id=as_id(item.id),
                        category=category,
                        rle=rle,
                        area=float(pixels) if area is None else area,
                        box=_corners(self._box(item, image), rle),
                        crowd=item.crowd,
                    )
                )
        return found, left_out

    def _box(self, item: CocoAnnotation, image: TruthImage) -> list[float] | None:
        box = item.box
        if box is not None and self.normalised:
            # Some files have fractions in their polygons and pixels in their boxes.
            if max(box) > LARGEST_FRACTION:
                return box
            sides = (image.width, image.height) * 2
            return [edge * side for edge, side in zip(box, sides, strict=True)]
        return box

    def photo(self, image: TruthImage) -> npt.NDArray[np.uint8]:
        """Read the photo as uint8 [H, W, 3], RGB.

        Raises:
            SkipItem: it is missing or damaged, or its size differs from the file's.
        """
        size = (image.height, image.width)
        path = image.path
        try:
            pixels = read_pixels(path, mask_sizes={size}, rule=self.shown)
        except SkipImageError as error:
            raise SkipItem(error.reason, error.detail) from None
        if pixels.shape[:2] != size:
            raise SkipItem(
                "size differs from the ground truth's", f"{path}: {pixels.shape[:2]}, not {size}"
            )
        return pixels

    def photo_stamps(self, images: Sequence[TruthImage]) -> list[str]:
        """Fingerprint each image's photo, which tells it from another one of the same name."""
        with ThreadPoolExecutor() as pool:
            paths = (image.path for image in images)
            return list(pool.map(lambda path: files_fingerprint(str(path), files=[path]), paths))

    def chosen(self, limit: int | None) -> list[TruthImage]:
        """Choose all images, or `limit` of them, which their order in the file does not decide."""
        if limit is None or limit >= len(self.images):
            return self.images
        # By a hash of the id: the first of a file are often of one source or one year.
        draws = {i.id: hashlib.blake2b(str(i.id).encode()).digest() for i in self.images}
        taken = set(sorted(draws, key=draws.__getitem__)[:limit])
        return [image for image in self.images if image.id in taken]


def open_truth(path: str, photos: str, datasets: Any, *, task: str) -> Truth:
    """Open the ground truth of `TASK.ground_truth` and `TASK.images`.

    Without these it is the only COCO or LVIS set of `eval.datasets`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    return read_truth(*find_truth(path, photos, datasets, task=task))


def find_truth(path: str, photos: str, datasets: Any, *, task: str) -> tuple[Path, Path]:
    """Find the file and the folder of photos that `open_truth` reads.

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

    Entries of `images` that cannot be told apart or measured are left out and counted. So are
    annotations of images or categories that the file does not list. Entries of the same photo stay
    apart, as in pycocotools, because results refer to their ids.

    Raises:
        UserError: a path is missing, or the file is not of that form.
    """
    if not photos.is_dir():
        raise UserError(f"the photos' folder {photos} does not exist")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    file = read_coco(path, kind="COCO or LVIS", file=as_json(path, content))
    truth = Truth(
        path=path,
        photos=photos,
        images=[],
        categories=_categories(file),
        lvis=False,
        digest=hashlib.blake2b(content, digest_size=8).hexdigest(),
        image_index=IdIndex([]),
        category_index=IdIndex([]),
        normalised=file.normalised,
        left_out=Counter(f"{skip.kind}: {skip.reason}" for skip in file.skips),
        notes=list(file.notes),
    )
    # Categories first: annotations are looked up in them.
    truth.category_index = IdIndex(truth.categories)
    _add_images(truth, file)
    truth.image_index = IdIndex(image.id for image in truth.images)
    truth.lvis = (
        bool(truth.categories)
        and all(c.frequency in FREQUENCIES for c in truth.categories.values())
        and all(i.neg_category_ids is not None for i in truth.images)
    )
    if not truth.images:
        why = ", ".join(f"{count} {reason}" for reason, count in truth.left_out.items())
        raise UserError(f"{path} has no image to measure ({why or '`images` is empty'})")
    return truth


def _categories(file: CocoFile) -> dict[CategoryId, TruthCategory]:
    """Return the categories by id; where the file lists none, those of its annotations."""
    found: dict[CategoryId, TruthCategory] = {}
    for entry in file.categories:
        if (own := as_id(entry.id)) is not None:
            name = "" if entry.name is None else str(entry.name)
            letter = entry.frequency if isinstance(entry.frequency, str) else None
            found.setdefault(own, TruthCategory(id=own, name=name, frequency=letter))
    if not found:
        used = {as_id(item.category_id) for own in file.annotations for item in own}
        for own in sorted((one for one in used if one is not None), key=sort_key):
            found[own] = TruthCategory(id=own, name=str(own))
        found = found or {1: TruthCategory(id=1, name="object")}
        file.notes.append(f"{file.path.name} lists no categories: they are those of its masks")
    return found


def _add_images(truth: Truth, file: CocoFile) -> None:
    """Give the ground truth its images with their photos and annotations."""
    found = find_photos(truth.photos, [image.names for image in file.images])
    truth.notes += rename_note(found, [image.names for image in file.images])
    # One category and no annotation that names it: all annotations are of that one.
    anonymous = all(
        as_id(item.category_id) is None for own in file.annotations for item in own
    ) and (len(truth.categories) == 1)
    for image, photo, items in zip(file.images, found, file.annotations, strict=True):
        size = _size(image, photo)
        if image.id is None or size is None:
            what = "no id" if image.id is None else "no size, and the photo is missing"
            truth.left_out[f"image: {what}"] += 1
            truth.left_out["mask: its image was left out"] += len(items)
            continue
        truth.images.append(
            TruthImage(
                id=image.id,
                height=size[0],
                width=size[1],
                path=photo.path,
                # Text that spells a number is another id than the number.
                key=repr(image.id) if as_number(image.id) is not None else str(image.id),
                neg_category_ids=_known(truth, image.neg_category_ids),
                not_exhaustive_category_ids=_known(truth, image.not_exhaustive_category_ids),
            )
        )
        own = truth.annotations.setdefault(image.id, [])
        for item in items:
            category = (
                next(iter(truth.categories)) if anonymous else truth.category(item.category_id)
            )
            if category is None:
                truth.left_out["mask: category absent from `categories`"] += 1
            else:
                own.append((category, item))


def _size(image: CocoImage, photo: FoundPhoto) -> tuple[int, int] | None:
    if image.height is not None and image.width is not None:
        return image.height, image.width
    # Some programs write no sizes; the photo's header has them.
    try:
        return photo_size(photo.path)
    except SkipImageError:
        return None


def _known(truth: Truth, ids: tuple[Any, ...] | None) -> tuple[CategoryId, ...] | None:
    if ids is None:
        return None
    found = (truth.category(one) for one in ids)
    return tuple(one for one in found if one is not None)


def _corners(box: Sequence[float] | None, rle: RLE) -> tuple[float, float, float, float]:
    if box is None or len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        box = coco_mask.toBbox(rle).tolist()
    x, y, w, h = box
    return x, y, x + w, y + h
