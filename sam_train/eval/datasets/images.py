"""A photo with its masks in the original frame, from a data set's files or from a shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.records import MasksRead, Record
from sam_train.data.formats.take import fitting_masks
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import locate
from sam_train.data.photos.jpeg import read_pixels
from sam_train.data.photos.rule import PhotoRule
from sam_train.data.sample.decode import BadSample, as_rle, open_photo, read_masks, to_rgb
from sam_train.data.shards.part import Entry, SamplePlace
from sam_train.masks import rle
from sam_train.runtime.fingerprint import files_fingerprint
from sam_train.runtime.jobs import SkipItem
from sam_train.types import RLE


@dataclass(slots=True, kw_only=True)
class EvalSample:
    """A photo and its usable masks, original frame."""

    key: str
    """`dataset/name`, which decides random draws, whatever folder the files lie in."""
    dataset: str
    image: npt.NDArray[np.uint8]
    """[H, W, 3] RGB."""
    masks: list[RLE]
    """The masks, at least one and none of them empty."""
    names: list[str]
    """Origin of each mask: the annotation's id, the label, the file."""
    areas: list[int]
    """Pixels of each mask."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Masks that were not taken, by reason."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalImage(ABC):
    """An image of a data set, not read yet."""

    dataset: str
    name: str
    """Path below the photos' folder, or `shard.tar/sa_12`."""
    source: str = ""
    """Fingerprint of the data set's entry in `eval.datasets`: its reader and its paths."""
    content: str = ""
    """Fingerprint of its files and annotations; `stamped` fills it in."""

    @property
    def key(self) -> str:
        """Name of the image's record, which changes with the folder, the photo and the masks."""
        return f"{self.dataset}/{self.name}#{self.source}.{self.content}"

    def stamped(self) -> Self:
        """Return a copy with the present `content`.

        Called once, when images are listed, because a key must not change during the work.
        """
        return replace(self, content=self._stamp())

    @abstractmethod
    def _stamp(self) -> str:
        """Fingerprint all that `load` reads."""

    @abstractmethod
    def count(self) -> int:
        """Count the masks of its files, whether usable or not; 0 if they cannot be read."""

    @abstractmethod
    def load(self, *, min_area: int = 1) -> EvalSample:
        """Read photo and masks.

        Raises:
            SkipItem: a file is missing or damaged, or no mask is left.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FileImage(EvalImage):
    """A record of one of the readers that conversion uses, too."""

    record: Record
    photos: PhotoRule = field(default_factory=PhotoRule)
    """The way that photos beyond 8-bit RGB are shown."""

    def _stamp(self) -> str:
        # The record itself holds its part of a JSON for all images, so that a correction of one
        # annotation leaves the other images' records valid.
        shown = repr(self.photos) if self.photos != PhotoRule() else ""
        # A page is a part of a file, and a slice one of a volume.
        files = [locate(self.record.image).file, *self.record.inputs()]
        return files_fingerprint(repr(self.record) + shown, files=files)

    def count(self) -> int:
        """Count the masks by reading them, as their file has no other count."""
        try:
            return len(self.record.masks().masks)
        except SkipImageError:
            return 0

    def load(self, *, min_area: int = 1) -> EvalSample:
        """Read photo and masks; photos become upright RGB, as viewers show them."""
        try:
            read = self.record.masks()
            sizes = {(m.segmentation["size"][0], m.segmentation["size"][1]) for m in read.masks}
            if not sizes:
                raise SkipItem("no mask")
            with self.record.photo() as path:
                image = read_pixels(path, mask_sizes=sizes, rule=self.photos)
        except SkipImageError as error:
            raise SkipItem(error.reason, error.detail) from None
        return _sample(self, image, read, min_area=min_area)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardImage(EvalImage):
    """A sample of SA-1B's format."""

    place: SamplePlace
    shard: str
    """Size and time of the shard's file."""

    def _stamp(self) -> str:
        return files_fingerprint(f"{self.shard} {self.place.jpeg} {self.place.json}")

    def count(self) -> int:
        """Count the `segmentation`s of the JSON, of which each mask has one."""
        try:
            return self._read().json.count(b'"segmentation"')
        except SkipItem:
            return 0

    def load(self, *, min_area: int = 1) -> EvalSample:
        """Read photo and masks; EXIF is ignored, as in training."""
        entry, read = self._read(), MasksRead()
        try:
            photo = open_photo(entry.jpeg)
            height, width = photo.height, photo.width
            masks = read_masks(entry.json, height=height, width=width)
            image = np.asarray(to_rgb(photo))
        except BadSample as bad:
            raise SkipItem(bad.kind.replace("_", " "), str(bad)) from None
        for k, status in enumerate(masks.runs.status):
            name = f"mask {k}"
            # Not 0: the parser found the mask's runs invalid.
            if status:
                read.skip(rle.PROBLEMS[status], name)
                continue
            found = as_rle(masks, k, height=height, width=width)
            counts = found["counts"]
            text = counts.decode("ascii") if isinstance(counts, bytes) else counts
            read.add(name, {"size": [height, width], "counts": text})
        return _sample(self, image, read, min_area=min_area)

    def _read(self) -> Entry:
        try:
            return self.place.read()
        except Exception as error:  # fsspec's backends raise what they like
            raise SkipItem("unreadable", f"{self.place.name}: {error}") from None


def _sample(
    image: EvalImage, pixels: npt.NDArray[np.uint8], read: MasksRead, *, min_area: int
) -> EvalSample:
    left_out = Counter(skip.reason for skip in read.skips)
    sample = EvalSample(
        key=f"{image.dataset}/{image.name}",
        dataset=image.dataset,
        image=pixels,
        masks=[],
        names=[],
        areas=[],
    )
    height, width = sample.size
    fitting = fitting_masks(
        read.masks, height=height, width=width, min_area=min_area, setting="eval.min_area"
    )
    left_out.update(skip.reason for skip in fitting.skips)
    for mask in fitting.masks:
        encoded = RLE(size=mask.segmentation["size"], counts=mask.segmentation["counts"])
        sample.masks.append(encoded)
        sample.names.append(mask.name)
    sample.areas = fitting.areas
    sample.left_out = dict(left_out)
    if not sample.masks:
        raise SkipItem("no mask left", ", ".join(f"{n} {why}" for why, n in left_out.items()))
    return sample
