"""The conversion of records to SA-1B samples, in order, on several processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data_tools import command
from sam_train.data.formats.records import Listing, Record
from sam_train.data.formats.take import take_record
from sam_train.data.left_out import Skip
from sam_train.data.photos.jpeg import JPEG_QUALITY, Photo, read_photo
from sam_train.data.photos.rule import PhotoRule, Taken
from sam_train.data.shards.writer import ShardSample, annotation_from_rle
from sam_train.runtime.text import count

PIECES_SHARE = 0.05
"""Fewer files with objects in pieces are things half hidden, and not worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """Settings that are the same for every format."""

    jpeg_quality: int = JPEG_QUALITY
    """Quality of the JPEGs that have to be encoded anew, 1 to 100."""
    min_area: int = 1
    """Masks of fewer pixels are left out; empty ones always are."""
    photos: PhotoRule = field(default_factory=PhotoRule)
    """The rule by which photos beyond 8-bit RGB are shown."""
    workers: int = 0
    """Processes beside this one; 0 does everything here."""


@dataclass(slots=True, kw_only=True)
class Converted:
    """The outcome of one image."""

    name: str
    sample: ShardSample | None = None
    """None if the image was left out."""
    taken: Taken | None = None
    """The treatment of its photo."""
    skips: list[Skip] = field(default_factory=list)
    masks_taken: list[str] = field(default_factory=list)
    """The reading of each mask file, see `MasksRead.taken`."""
    in_pieces: list[tuple[str, int]] = field(default_factory=list)
    """Objects in several pieces, see `MasksRead.in_pieces`."""


@dataclass(slots=True)
class Tally:
    """The work of a run so far."""

    images: int = 0
    masks: int = 0
    skips: list[Skip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Sentences of the reader about the source."""
    sources: list[tuple[int, str]] = field(default_factory=list)
    """(N of `sa_N`, original name) of every image written."""
    photos: list[Taken] = field(default_factory=list)
    """The treatment of each of them."""


def convert_record(record: Record, image_id: int, config: ConvertConfig) -> Converted:
    """Convert one image with its masks to a sample; a fault becomes a counted skip."""

    def encoded(path: Path, mask_sizes: Collection[tuple[int, int]]) -> Photo:
        rule, quality = config.photos, config.jpeg_quality
        return read_photo(path, mask_sizes=mask_sizes, quality=quality, rule=rule)

    taken = take_record(record, encoded, min_area=config.min_area)
    result = Converted(
        name=record.name,
        skips=taken.skips,
        masks_taken=taken.read.taken,
        in_pieces=taken.read.in_pieces,
    )
    if (photo := taken.photo) is not None:
        result.taken = photo.taken
        result.sample = ShardSample(
            image_id=image_id,
            jpeg=photo.jpeg,
            width=photo.width,
            height=photo.height,
            annotations=[annotation_from_rle(m.segmentation, id=m.id) for m in taken.masks],
        )
    return result


def convert_all(listing: Listing, config: ConvertConfig) -> Iterator[Converted]:
    """Convert every record in order.

    The N of an image is its place in the list, from 1. So it stays the same when another image is
    mended or removed from the shards.

    Raises:
        UserError: a worker process died.
    """
    numbered = ((record, n) for n, record in enumerate(listing.records, start=1))
    convert_one = partial(_convert_numbered, config=config)
    yield from command.parallel(convert_one, numbered, workers=config.workers)


def _convert_numbered(numbered: tuple[Record, int], config: ConvertConfig) -> Converted:
    return convert_record(*numbered, config)


def samples(listing: Listing, config: ConvertConfig, tally: Tally) -> Iterator[ShardSample]:
    """Yield the samples to write; `tally` is kept up to date while they are read."""
    tally.skips += listing.skips
    tally.notes += listing.notes
    taken: Counter[str] = Counter()
    in_pieces: list[tuple[str, int]] = []
    for result in convert_all(listing, config):
        tally.skips += result.skips
        taken.update(result.masks_taken)
        in_pieces += result.in_pieces
        if result.sample is None:
            continue
        if not listing.keeps_ids:
            # SA-1B's ids are unique over the whole data set, not within an image.
            for number, annotation in enumerate(result.sample.annotations, start=1):
                annotation["id"] = tally.masks + number
        tally.images += 1
        tally.masks += len(result.sample.annotations)
        tally.sources.append((result.sample.image_id, result.name))
        if result.taken is not None:
            tally.photos.append(result.taken)
        yield result.sample
    tally.notes += taken_notes(taken, in_pieces)


def taken_notes(taken: Counter[str], in_pieces: list[tuple[str, int]]) -> list[str]:
    """Return a sentence for each thing that mask files were taken for, and one that says where an
    object looks like several."""
    notes = [f"{count(n, 'mask file')}: {what}" for what, n in taken.most_common()]
    if len(in_pieces) > PIECES_SHARE * taken.total():
        name, most = max(in_pieces, key=lambda found: found[1])
        notes.append(
            f"an object in 4 or more separate regions in {len(in_pieces)} of "
            f"{count(taken.total(), 'mask file')} ({name}: {most}); if each region is an "
            "object, add --regions"
        )
    return notes
