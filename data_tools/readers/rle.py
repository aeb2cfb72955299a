"""A folder of images and a JSON {image name: {"size": [h, w], "counts": [RLE, ...]}}."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from data_tools.readers.records import (
    Listing,
    MasksRead,
    Record,
    list_images,
    require_file,
    require_folder,
)
from data_tools.readers.runs import checked_rle
from sam_train.errors import UserError


class RleImage(msgspec.Struct):
    """The masks of one image: compressed strings or plain lists of runs."""

    size: list[int]
    counts: list[str | list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RleRecord(Record):
    """An image with its run lengths."""

    size: list[int]
    counts: list[str | list[int]]

    def masks(self) -> MasksRead:
        """One mask per entry of `counts`; a malformed one is counted and left out."""
        read = MasksRead()
        for number, counts in enumerate(self.counts):
            name = f"{self.name}: mask {number}"
            try:
                read.add(name, checked_rle(self.size, counts))
            except (ValueError, OverflowError) as error:
                read.skip("bad RLE", f"{name}: {error}")
        return read

    def known(self) -> list[str]:
        """Return a name for every entry."""
        return [f"{self.name}: mask {number}" for number in range(len(self.counts))]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refusing a repeated key, of which json would keep the last silently."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the name {key!r} stands in it twice")
        result[key] = value
    return result


def list_rle(images: Path, masks: Path) -> Listing:
    """List the images that an RLE JSON names, with or without their file suffix.

    Raises:
        UserError: a path is missing, or the JSON is not of this form.
    """
    require_folder(images, "--images")
    require_file(masks, "--masks")
    try:
        content = json.loads(masks.read_bytes(), object_pairs_hook=_unique)
        entries = msgspec.convert(content, type=dict[str, RleImage])
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise UserError(
            f'{masks}: not {{image name: {{"size": [h, w], "counts": [RLE, ...]}}}} ({error})'
        ) from error
    listing = Listing(records=[], inputs=[masks])
    files: dict[str, Path] = {}
    stems: dict[str, list[str]] = {}
    for path in list_images(images):
        relative = path.relative_to(images)
        files[relative.as_posix()] = path
        stems.setdefault(relative.with_suffix("").as_posix(), []).append(relative.as_posix())
    used: set[str] = set()
    for key in sorted(entries):
        matches = [key] if key in files else stems.get(key, [])
        if not matches:
            listing.skip("image", "missing image", key)
        elif len(matches) > 1 or matches[0] in used:
            listing.skip("image", "duplicate name", f"{key}: {', '.join(matches)}")
        else:
            used.add(matches[0])
            entry = entries[key]
            listing.records.append(
                RleRecord(
                    name=matches[0],
                    image=files[matches[0]],
                    size=entry.size,
                    counts=entry.counts,
                )
            )
    for name in sorted(files.keys() - used):
        listing.skip("image", "not named in the JSON", name)
    return listing
