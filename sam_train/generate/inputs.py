"""The photos to find masks on: folders, files, globs, shards, and lists of these.

A loose file becomes the upright RGB JPEG that a shard holds (`sam_train.data.photos.jpeg`). Each
page of a TIFF is a photo. A photo inside a shard is taken as it is, EXIF ignored, as in training.
Pictures of unsupported formats are listed, too, so that they are counted and named.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import pages
from sam_train.data.photos.formats import PHOTO_SUFFIXES, is_photo, why_unread
from sam_train.data.photos.jpeg import read_photo
from sam_train.data.photos.rule import PhotoRule
from sam_train.data.sample.decode import BadSample, open_photo, to_rgb
from sam_train.data.shards.part import MAX_MEMBER
from sam_train.data.shards.patterns import resolve
from sam_train.data.storage.open import open_source
from sam_train.data.storage.sources import Span, is_remote, short_name
from sam_train.data.storage.tar import list_members
from sam_train.errors import UserError
from sam_train.runtime.jobs import SkipItem
from sam_train.runtime.text import one_line

OPTION = "generate.input"
PHOTO_ENDINGS = tuple(sorted(PHOTO_SUFFIXES))
_IN_SHARDS = (".jpg", ".jpeg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A photo as it will lie in a shard."""

    jpeg: bytes
    pixels: npt.NDArray[np.uint8]
    """[H, W, 3] RGB, decoded from `jpeg`."""
    remarks: tuple[str, ...] = ()
    """Changes made to a photo beyond 8-bit RGB, see `sam_train.data.photos.rule.Taken`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoPlace:
    """The place of one photo."""

    path: str
    """Path of the file or of the shard."""
    member: str | None = None
    """Name in the shard; None for a file."""
    span: Span | None = None
    """Bytes in the shard; None for a file."""

    @property
    def name(self) -> str:
        """The path, or `shard.tar/sa_12.jpg`, for messages and lists."""
        return self.path if self.member is None else f"{self.path}/{self.member}"

    @property
    def key(self) -> str:
        """The photo's name without folder and extension, by which its annotations are found."""
        return Path(self.member or self.path).stem

    def read(self, rule: PhotoRule | None = None) -> Photo:
        """Read the photo's bytes and pixels.

        Args:
            rule: the way that photos beyond 8-bit RGB are shown.

        Raises:
            SkipItem: the photo is missing, damaged, or absurdly large.
        """
        jpeg, remarks = self._jpeg(rule or PhotoRule())
        try:
            pixels = np.asarray(to_rgb(open_photo(jpeg)))
        except BadSample as error:
            raise SkipItem("unreadable image", str(error)) from error
        return Photo(jpeg=jpeg, pixels=pixels, remarks=remarks)

    def _jpeg(self, rule: PhotoRule) -> tuple[bytes, tuple[str, ...]]:
        if self.span is None:
            try:
                photo = read_photo(Path(self.path), rule=rule)
            except SkipImageError as error:
                raise SkipItem(error.reason, error.detail) from error
            return photo.jpeg, photo.taken.remarks
        # Before memory is taken: a damaged header may claim any size.
        if self.span.size > MAX_MEMBER:
            raise SkipItem("unreadable image", f"a file of more than {MAX_MEMBER >> 20} MiB")
        try:
            return open_source(self.path).read_many([self.span])[0], ()
        except OSError as error:
            raise SkipItem("unreadable image", one_line(error)) from error


def list_photos(patterns: Sequence[str]) -> list[PhotoPlace]:
    """List the photos that the patterns match, once each, in an order that names alone decide.

    Raises:
        UserError: nothing is there, or a shard cannot be read.
    """
    files: set[str] = set()
    shards: set[str] = set()
    for pattern in patterns:
        for path in _expand(pattern):
            (shards if _is_shard(path) else files).add(path)
    # Sorted: every process must number the photos alike, whatever order its file system lists.
    places = [PhotoPlace(path=str(page)) for path in sorted(files) for page in pages(Path(path))]
    for shard in sorted(shards):
        places.extend(_in_shard(shard))
    if not places:
        endings = ", ".join(PHOTO_ENDINGS)
        raise UserError(f"{OPTION}={', '.join(patterns)} holds no photo ({endings}, or .tar)")
    return places


def _expand(pattern: str) -> Iterator[str]:
    """Yield the files and shards of one pattern; shards' patterns are those of `data.train`."""
    path = Path(pattern).expanduser()
    if is_remote(pattern) or _is_shard(pattern):
        yield from resolve(pattern, option=OPTION)
    elif path.is_dir():
        found = [p for p in path.rglob("*") if _is_photo(p) or p.suffix == ".tar"]
        yield from (str(p) for p in found)
    elif path.suffix == ".txt" and path.is_file():
        yield from _listed(path)
    elif path.is_file():
        if reason := why_unread(path):
            raise UserError(f"{OPTION}={pattern}: {reason}")
        if not _is_photo(path):
            raise UserError(f"{OPTION}={pattern} is no photo ({', '.join(PHOTO_ENDINGS)})")
        yield str(path)
    else:
        found_names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - takes absolute patterns
        if not found_names:
            raise UserError(f"{OPTION}={pattern} matches nothing")
        yield from (name for name in found_names if _is_photo(Path(name)) or _is_shard(name))


def _listed(path: Path) -> Iterator[str]:
    """Yield the photos of a list, a path or pattern a line, relative to the list's folder."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.endswith(".txt"):
            raise UserError(f"{OPTION}: the list {path} names another list, {text}")
        yield from _expand(text if is_remote(text) else str(path.parent / text))


def _is_photo(path: Path) -> bool:
    # Hidden files are other programs' leftovers, such as macOS' "._dog.jpg".
    known = is_photo(path) or why_unread(path) is not None
    return known and not path.name.startswith(".")


def _is_shard(path: str) -> bool:
    return short_name(path).endswith(".tar")


def _in_shard(path: str) -> list[PhotoPlace]:
    """List the photos of a tar, with or without annotations."""
    try:
        source = open_source(path)
        size = source.facts().size
        with source.opened(size) as read_at:
            members = list_members(read_at, size=size).members
    except OSError as error:
        raise UserError(f"{OPTION}: {path} cannot be read ({one_line(error)})") from None
    return [
        PhotoPlace(path=path, member=m.name.removeprefix("./"), span=Span(m.offset, m.size))
        for m in members
        if m.name.lower().endswith(_IN_SHARDS)
    ]
