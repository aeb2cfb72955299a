"""The format `rle`: images and a JSON {image name: {"size": [h, w], "counts": [RLE, ...]}}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sam_train.data.formats.base import Annotations, Format, register
from sam_train.data.formats.foreign_json import JsonFile, read_json
from sam_train.data.formats.json_kinds import is_runs_by_image, kind_of
from sam_train.data.formats.photo_names import find_photos, rename_note
from sam_train.data.formats.records import (
    Listing,
    MasksRead,
    Record,
    list_images,
    require_file,
    require_folder,
)
from sam_train.data.formats.segmentation import any_rle
from sam_train.errors import UserError

_FORM = '{image name: {"size": [h, w], "counts": [RLE, ...]}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class RleRecord(Record):
    """An image with its run lengths."""

    size: Any
    """[height, width] as the file has it."""
    counts: list[Any]
    """Runs of each mask: a compressed string, or a plain list."""

    def masks(self) -> MasksRead:
        """Read one mask per entry of `counts`; a malformed one is counted and left out."""
        read = MasksRead()
        for number, counts in enumerate(self.counts):
            name = f"{self.name}: mask {number}"
            try:
                # The size stands in the file, so the photo's (0, 0) is never looked at.
                read.add(name, any_rle({"size": self.size, "counts": counts}, 0, 0))
            except (ValueError, OverflowError) as error:
                read.skip("bad RLE", f"{name}: {error}")
        return read

    def known(self) -> list[str]:
        """Return a name for every entry."""
        return [f"{self.name}: mask {number}" for number in range(len(self.counts))]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object; refuse a repeated key, of which json would silently keep the last."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the name {key!r} stands in it twice")
        result[key] = value
    return result


def _entries(file: JsonFile) -> dict[str, Any]:
    """Return the file's content.

    Raises:
        UserError: it is no object, or has a name twice.
    """
    try:
        file.decode(dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        kind = kind_of(file.text)
        why = f"this is {kind}" if kind else str(error)
        raise UserError(f"{file.path}: not {_FORM}: {why}") from None
    try:
        # The standard library, because msgspec keeps the last of two equal keys without a word.
        content = json.loads(file.text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.path}: not {_FORM} ({error})") from None
    found: dict[str, Any] = content
    return found


def _runs(entry: Any) -> tuple[Any, list[Any]]:
    """Return size and counts of an entry.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(entry, Mapping):
        raise ValueError("it is no object")
    for name in ("size", "counts"):
        if entry.get(name) is None:
            raise ValueError(f"it is an object missing the field `{name}`")
    counts = entry["counts"]
    # One mask, written without a list around it.
    if isinstance(counts, str):
        counts = [counts]
    if not isinstance(counts, list):
        raise ValueError("`counts` is no list")
    # The plain runs of one mask, not in a list of their own.
    if counts and all(isinstance(c, int | float) for c in counts):
        counts = [counts]
    return entry["size"], counts


@register
@dataclass(frozen=True, kw_only=True)
class Rle(Format):
    """Run lengths by the names of images, with or without their file suffix."""

    name = "rle"
    summary = 'photos and a JSON {image: {"size": [h, w], "counts": [RLE, ...]}}'
    annotation_places = ("masks_rle.json", "*rle*.json", "*.json")
    annotations = Annotations(flag="--masks", metavar="JSON")

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the JSON's entries in the order of their names."""
        return _listing(images, annotations)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for run lengths in the first entry."""
        return is_runs_by_image(annotations)


def _listing(images: Path, masks: Path) -> Listing:
    require_folder(images, "--images")
    require_file(masks, "--masks")
    file = read_json(masks)
    listing = Listing(records=[], inputs=[masks])
    entries: dict[str, tuple[Any, list[Any]]] = {}
    for key, entry in sorted(_entries(file).items()):
        try:
            entries[key] = _runs(entry)
        except ValueError as error:
            listing.skip("image", "unreadable entry", f"{key}: {error}")
    if not entries and listing.skips:
        kind = kind_of(file.text)
        why = f"this is {kind}" if kind else "it is another JSON"
        raise UserError(f"{masks}: not {_FORM}: {listing.skips[0].name}; {why}")
    listing.notes += file.notes
    used = _add_records(listing, images, entries)
    for path in list_images(images):
        name = path.relative_to(images).as_posix()
        if name not in used:
            listing.skip("image", "not named in the JSON", name)
    return listing


def _add_records(
    listing: Listing, images: Path, entries: Mapping[str, tuple[Any, list[Any]]]
) -> set[str]:
    """Add a record for each entry whose photo is found; returns the photos' names."""
    files: dict[str, Path] = {}
    stems: dict[str, list[str]] = {}
    for path in list_images(images):
        relative = path.relative_to(images)
        files[relative.as_posix()] = path
        stems.setdefault(relative.with_suffix("").as_posix(), []).append(relative.as_posix())
    # A name with its ending first; without it, two photos may have the same.
    found = {key: [key] if key in files else stems.get(key, []) for key in entries}
    foreign = [[key] for key, matches in found.items() if not matches]
    elsewhere = find_photos(images, foreign)
    listing.notes += rename_note(elsewhere, foreign)
    could: dict[str, str] = {}
    for (key,), photo in zip(foreign, elsewhere, strict=True):
        if photo.missing is None:
            found[key] = [photo.name]
            files.setdefault(photo.name, photo.path)
        elif photo.missing:
            could[key] = f" (but perhaps {photo.missing})"
    used: set[str] = set()
    for key, matches in found.items():
        size, counts = entries[key]
        # A photo belongs to one entry: the second would be written over the first.
        if len(matches) == 1 and matches[0] not in used:
            used.add(matches[0])
            name = matches[0]
            listing.records.append(
                RleRecord(name=name, image=files[name], size=size, counts=counts)
            )
            continue
        if not matches:
            listing.skip("image", "missing image", f"{key}{could.get(key, '')}")
        else:
            listing.skip("image", "duplicate name", f"{key}: {', '.join(matches)}")
        for number in range(len(counts)):
            listing.skip("mask", "its image was left out", f"{key}: mask {number}")
    return used
