"""Records of images and their masks, which every reader of a format hands on."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sam_train.data.left_out import Skip, SkipImageError
from sam_train.data.photos.files import locate, pages
from sam_train.data.photos.formats import PHOTO_SUFFIXES
from sam_train.errors import UserError
from sam_train.masks.runs import Segmentation

IMAGE_SUFFIXES = PHOTO_SUFFIXES


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMask:
    """A mask of the original frame, as it came from its source."""

    name: str
    """The file and the place in it, for messages."""
    segmentation: Segmentation
    id: int = 0
    """The source's own number; used only where `Listing.keeps_ids`."""


@dataclass(slots=True, kw_only=True)
class MasksRead:
    """The masks of one image."""

    masks: list[SourceMask] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    """The reading of each mask file, where a reader decides that by its values."""
    in_pieces: list[tuple[str, int]] = field(default_factory=list)
    """(file, number of pieces) where one object is in so many that it looks like several."""

    def add(self, name: str, segmentation: Segmentation, *, id: int = 0) -> None:
        """Take a mask."""
        self.masks.append(SourceMask(name=name, segmentation=segmentation, id=id))

    def skip(self, reason: str, name: str) -> None:
        """Count a mask that was left out."""
        self.skips.append(Skip(kind="mask", reason=reason, name=name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(ABC):
    """An image of the source. Small, because it is sent to a worker process."""

    name: str
    """Path below the images folder, with forward slashes."""
    image: Path
    """The photo; where it lies inside another file, that file."""

    @contextmanager
    def photo(self) -> Iterator[Path]:
        """Yield the photo as a file of its own, which may be gone afterwards.

        Raises:
            SkipImageError: it is missing or damaged inside the file that holds it.
        """
        content = self.embedded()
        if content is None:
            yield self.image
            return
        # A file rather than bytes: every reader of photos takes a path, and none needs two ways.
        with tempfile.TemporaryDirectory(prefix="photo-") as folder:
            file = Path(folder, f"photo{suffix_of(content)}")
            file.write_bytes(content)
            yield file

    def embedded(self) -> bytes | None:
        """Return the photo's bytes where it lies inside another file; None where it is a file."""
        return None

    @abstractmethod
    def masks(self) -> MasksRead:
        """Read the masks, each with the size its source gives it.

        Raises:
            SkipImageError: the file that holds them cannot be used.
        """

    def group(self) -> str:
        """Return the name of what the image is a part of: a stack's file, a patient's volume.

        Images of one group are never divided between training and validation. "": it is no part of
        anything.
        """
        place = locate(self.image)
        return str(PurePosixPath(self.name).with_name(place.file.name)) if place.is_named else ""

    def known(self) -> list[str]:
        """Return the names of the masks that are known without reading a file, so that they are
        counted where the photo cannot be used."""
        return []

    def inputs(self) -> list[Path]:
        """List the files beside the photo, of this image alone, that the result depends on."""
        return []


@dataclass(slots=True, kw_only=True)
class Listing:
    """Everything a source holds, in the order in which it will be numbered."""

    records: list[Record]
    skips: list[Skip] = field(default_factory=list)
    inputs: list[Path] = field(default_factory=list)
    """Files that the result depends on, beside the records' own."""
    notes: list[str] = field(default_factory=list)
    """Sentences for people: what is unusual about the source and was taken all the same."""
    keeps_ids: bool = False
    """True if the masks' own numbers become the annotations' ids."""

    def skip(self, kind: str, reason: str, name: str) -> None:
        """Count an image or mask that was left out while listing."""
        self.skips.append(Skip(kind=kind, reason=reason, name=name))


def is_file(path: Path) -> bool:
    """Tell whether a file is there; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def refuse_missing(image: Path, could: str | None) -> None:
    """Refuse a photo that is not there.

    Args:
        could: None if it is there; else the files that it could be, "" for none.

    Raises:
        SkipImageError: names the photo and what it could be.
    """
    if could is not None:
        raise SkipImageError("missing image", f"{image}{could and f', but perhaps {could}'}")


def require_folder(path: Path, option: str) -> Path:
    """Return a folder that exists, or raise a UserError that names the option."""
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "does not exist"
        raise UserError(f"{option}: {path} {what}")
    return path


def require_file(path: Path, option: str) -> Path:
    """Return a file that exists, or raise a UserError that names the option."""
    if not path.is_file():
        what = "is a folder, not a file" if path.exists() else "does not exist"
        raise UserError(f"{option}: {path} {what}")
    return path


_MAGIC = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
)


def suffix_of(content: bytes) -> str:
    """Return the ending of a picture's kind of file by its first bytes; that of a WebP else."""
    return next((suffix for magic, suffix in _MAGIC if content.startswith(magic)), ".webp")


def list_images(folder: Path, *, without: Path | None = None) -> Iterator[Path]:
    """List the images below a folder, sorted by path; each page of a file of several is one.

    Args:
        folder: searched with all that lies below it.
        without: a subfolder to leave out.
    """
    paths = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        # Hidden files are what systems and programs leave behind, such as `._a.jpg`.
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (without is not None and path.is_relative_to(without))
    ]
    # By its text with forward slashes: samples are numbered by this order on every system.
    for path in sorted(paths, key=lambda path: path.relative_to(folder).as_posix()):
        yield from pages(path)
