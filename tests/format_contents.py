"""The contents of a data set: photos, masks, sizes, and what is left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam_train.data.formats.look import Entry
from sam_train.data.formats.source import FormatPart
from sam_train.data.left_out import Reason, Skip, reasons_of
from sam_train.data.sample.decode import BadSample, open_photo, read_masks
from sam_train.data.shards.reader import open_shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The photos and masks of a data set, or of some of its samples."""

    images: int
    """Photos that it lists."""
    looked_at: int
    """Photos that were read; the figures below are of these."""
    masks: int
    """Usable masks."""
    sizes: Counter[tuple[int, int]]
    """Photos by (width, height)."""
    skips: list[Reason]
    """The images and masks that are left out: by the listing, then by the photos read."""


def contents(entry: Entry | Mapping[str, Any], *, most: int | None = None) -> Contents:
    """Read a data set's photos and masks, and count them.

    Args:
        entry: as `data.train` takes it.
        most: read only so many photos, evenly spread over the data set; None reads all.

    Raises:
        UserError: it cannot be read, or lists no photo.
    """
    shards = open_shards([entry], option="data.train", formats=True)
    count = len(shards) if most is None else min(most, len(shards))
    sizes: Counter[tuple[int, int]] = Counter()
    listed = [r for part in shards.parts if isinstance(part, FormatPart) for r in part.reasons]
    skips: list[Skip] = []
    masks = 0
    for number in range(count):
        sample = number * len(shards) // count
        try:
            read = shards.read(sample)
            if read.pixels is None:
                photo = open_photo(read.jpeg)
                height, width = photo.height, photo.width
            else:
                height, width = read.pixels.shape[:2]
            status = read_masks(read.json, height=height, width=width).runs.status
        except BadSample as bad:
            skips.append(Skip(kind="image", reason=bad.kind, name=f"{shards.key(sample)}: {bad}"))
            continue
        sizes[width, height] += 1
        # A status other than 0 is an invalid mask.
        masks += int((status == 0).sum())
        skips += [skip for skip in read.skips if skip.kind == "mask"]
    return Contents(
        images=len(shards),
        looked_at=count,
        masks=masks,
        sizes=sizes,
        skips=[*listed, *reasons_of(skips)],
    )
