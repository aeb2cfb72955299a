"""A data set of any format as one more shard, read where it lies.

Its samples are in the order of its listing, which is that of the shards that
`python -m data_tools.convert` makes of it. So training on either draws the same, photo by photo and
mask by mask, where no photo is left out and all are JPEGs; other photos come here without the loss
of a JPEG.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from sam_train.data.formats.records import Listing, Record
from sam_train.data.formats.spec import DatasetSpec, find_paths, list_records
from sam_train.data.formats.take import LEFT_OUT, take_record
from sam_train.data.left_out import Reason, Skip, reasons_of
from sam_train.data.photos.files import locate
from sam_train.data.photos.jpeg import Photo, Shown, read_stored
from sam_train.data.photos.rule import PhotoRule
from sam_train.data.sample.decode import BadSample
from sam_train.data.shards.fingerprint import digest
from sam_train.data.shards.index import build_index, compact
from sam_train.data.shards.part import Entry, IndexedShard, SamplePlace
from sam_train.data.shards.walk import ShardIndex
from sam_train.errors import UserError

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class FormatPart(IndexedShard):
    """The records of a data set, in the place of a shard.

    Records are kept as bytes in one block, not as objects. Objects would be copied into each loader
    worker as it touches them, because CPython counts references inside them: COCO's train2017 is
    860,000 annotations. A block stays shared by forked workers; a spawned one gets it once.
    """

    has_groups: ClassVar[bool] = True
    packed: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    """[n + 1] record k is packed[offsets[k]:offsets[k + 1]]."""
    beside: Path
    """The data set's folder, which may hold lists of its samples."""
    reasons: list[Reason] = field(default_factory=list)
    """Reasons for which the listing left out images and masks."""
    inputs: Sequence[Path] = ()
    """Files that all records depend on."""
    photos: PhotoRule = field(default_factory=PhotoRule)
    """The way that photos beyond 8-bit RGB are shown."""

    @property
    def ends(self) -> list[str]:
        """A fingerprint of all names: unlike a tar, the listing follows from other files."""
        return [digest([self.index.part(self.shard).names])]

    @property
    def folder(self) -> Path | None:
        """The data set's folder."""
        return self.beside

    @property
    def left_out(self) -> list[str]:
        """Lines about the images and masks that the listing left out."""
        return [reason.line("left out") for reason in self.reasons if reason.kind != "file"]

    def place(self, row: int) -> SamplePlace:
        """Raise: a record has no place in a file."""
        raise OSError(f"{self.path} is no shard")

    def stamp(self, row: int) -> bytes | None:
        """Return the record, and the size and time of each file that it is read from."""
        packed, record = self._bytes(row), self._record(row)
        files = [locate(record.image).file, *record.inputs(), *self.inputs]
        try:
            facts = [(status.st_size, status.st_mtime_ns) for status in map(Path.stat, files)]
        except OSError:
            return None
        return bytes(packed) + repr((facts, self.photos)).encode()

    def group(self, row: int) -> str | None:
        """Return what the record's image is a part of, None where it stands alone."""
        return self._record(row).group() or None

    def images(self) -> list[Path]:
        """List the photos, or pages of files, in order."""
        # Tiles of one photo stand side by side.
        return list(dict.fromkeys(self._record(row).image for row in range(self.row.samples)))

    def show_by(self, rule: PhotoRule) -> None:
        """Show photos beyond 8-bit RGB by a rule."""
        self.photos = rule

    def _record(self, row: int) -> Record:
        # Packed by this process or its parent, never read from a file.
        record: Record = pickle.loads(self._bytes(row))
        return record

    def _bytes(self, row: int) -> memoryview:
        return self.packed[self.offsets[row] : self.offsets[row + 1]].data

    def read(self, row: int) -> Entry:
        """Read photo and masks of a record.

        Raises:
            BadSample: the photo or all of its masks cannot be used.
        """
        taken = take_record(self._record(row), self._photo)
        if taken.photo is None:
            raise BadSample("unusable", _why_unusable(taken.skips))
        # As SA-1B's JSON, so that the sample takes the same way as one from a tar.
        masks = [{"segmentation": mask.segmentation} for mask in taken.masks]
        return Entry(
            jpeg=taken.photo.jpeg if isinstance(taken.photo, Photo) else b"",
            json=msgspec.json.encode({"annotations": masks}),
            pixels=taken.photo.pixels if isinstance(taken.photo, Shown) else None,
            skips=taken.skips,
        )

    def _photo(self, path: Path, mask_sizes: Collection[tuple[int, int]]) -> Photo | Shown:
        return read_stored(path, mask_sizes=mask_sizes, rule=self.photos)


def _why_unusable(skips: Sequence[Skip]) -> str:
    """Return why a photo was left out, and where it lost all of its masks, why the first of them.

    A colon ends the reason.
    """
    image = next(skip for skip in skips if skip.kind == "image")
    first = next((skip for skip in skips if skip.kind == "mask"), None)
    if first is None or first.reason == LEFT_OUT:
        return f"{image.reason}: {image.name}"
    return f"{image.reason}, {first.reason}: {image.name}: {first.name}"


def open_format(spec: DatasetSpec) -> FormatPart:
    """List a data set; what the listing leaves out is warned about, one line a reason.

    Raises:
        UserError: it cannot be read, or has no image.
    """
    listing = open_listing(spec)
    return format_part(spec, listing, names=[record.name for record in listing.records])


def open_listing(spec: DatasetSpec) -> Listing:
    """List the records of a data set, as `open_format`."""
    listing = list_records(spec)
    reasons = reasons_of(listing.skips)
    for note in listing.notes:
        log.info("%s: %s: %s", spec.setting, spec.name, note)
    if not listing.records:
        why = "; ".join(reason.line("left out") for reason in reasons)
        raise UserError(f"{spec.setting}: {spec.name} has no image{f' ({why})' if why else ''}")
    # Files that are neither photo nor mask lie beside every data set, and are no reason to worry.
    for reason in reasons:
        level = logging.INFO if reason.kind == "file" else logging.WARNING
        log.log(level, "%s: %s: %s", spec.setting, spec.name, reason.line("left out"))
    return listing


def format_part(spec: DatasetSpec, listing: Listing, *, names: Sequence[str]) -> FormatPart:
    """Make the part of a listing whose samples have these names."""
    folder = Path(spec.path or find_paths(spec)[0]).expanduser()
    path = f"{spec.reader}:{folder}"
    packed = [pickle.dumps(record) for record in listing.records]
    offsets = np.cumsum([0, *map(len, packed)], dtype=np.int64)
    # Records are found by number; the index is there for their names alone.
    nowhere = np.zeros((len(names), 2), dtype=np.int64)
    index = ShardIndex(
        path=path,
        size=0,
        stamp="",
        # Names are stored as UTF-8, which a file's name need not be on Linux.
        keys=[_printable(name) for name in names],
        jpegs=nowhere,
        jsons=nowhere,
        without_json=[],
        without_jpeg=[],
        damage=None,
    )
    return FormatPart(
        path=path,
        index=build_index([compact(index)]),
        shard=0,
        packed=np.frombuffer(b"".join(packed), dtype=np.uint8),
        offsets=offsets,
        # A data set may be given by its JSON.
        beside=folder.parent if folder.is_file() else folder,
        reasons=reasons_of(listing.skips),
        inputs=tuple(listing.inputs),
    )


def _printable(name: str) -> str:
    """Return a file's name without the bytes that are no UTF-8."""
    return name.encode("utf-8", "replace").decode()
