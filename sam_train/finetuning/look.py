"""A look at a data set before anything is trained on it: what is there, and what cannot be used."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from sam_train.data.left_out import Reason, Skip, reasons_of
from sam_train.data.sample import select
from sam_train.data.sample.decode import BadSample, open_entry, read_masks, to_rgb
from sam_train.data.shards.reader import Shards
from sam_train.data.skips import KINDS, kind_of
from sam_train.errors import UserError
from sam_train.runtime.text import count

LOOKED_AT = 2000
"""Photos that are read; they lie evenly over the data set."""
_READERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A photo of which at least one mask can be used."""

    sample: int
    """The photo's number in the shards."""
    name: str
    """The name in lists of samples: `shard.tar/sa_12`, `rle:folder/a.png`."""
    size: tuple[int, int]
    """(H, W)."""
    sides: list[float]
    """The square root of each usable mask's pixels."""
    digest: bytes
    """Equal for two names of one photo."""


@dataclass(slots=True, kw_only=True)
class Look:
    """The contents of a data set, as far as they were read."""

    source: str
    """The data set, as the setting names it."""
    photos: int
    """Photos of the listing."""
    looked: int
    """Photos that were read."""
    seen: list[Seen] = field(default_factory=list)
    left_out: list[Reason] = field(default_factory=list)
    """Reasons for which images and masks cannot be used."""
    unusable: set[str] = field(default_factory=set)
    """Names of the photos that were read and cannot be used."""

    @property
    def masks(self) -> int:
        """Usable masks of the photos that were read."""
        return sum(len(one.sides) for one in self.seen)

    @property
    def usable(self) -> int:
        """An estimate of the photos that can be used; exact where every photo was read."""
        return round(self.photos * len(self.seen) / max(1, self.looked))

    def sides(self) -> list[float]:
        """Return each object's side as a share of the longest side of its photo."""
        return [side / max(one.size) for one in self.seen for side in one.sides]

    def lines(self) -> list[str]:
        """Return lines for people."""
        every = "" if self.looked == self.photos else f" (read {self.looked:,} of {self.photos:,})"
        per_photo = _spread([len(one.sides) for one in self.seen], "{:.0f}")
        widths = _spread([one.size[1] for one in self.seen], "{:.0f}")
        heights = _spread([one.size[0] for one in self.seen], "{:.0f}")
        shares = [100 * side**2 / (s.size[0] * s.size[1]) for s in self.seen for side in s.sides]
        lines = [
            f"{self.source}: {count(len(self.seen), 'photo')} with {count(self.masks, 'mask')}"
            f"{every}, {per_photo} a photo",
            f"photos are {widths} wide and {heights} high, in pixels",
            f"objects cover {_spread(shares, '{:.2g}')} % of their photo",
        ]
        if not self.left_out:
            return [*lines, "everything in it can be used"]
        return [*lines, *(reason.line("unusable:") for reason in self.left_out)]


def _spread(values: Sequence[float], form: str) -> str:
    """Return `middle (lowest to highest)`, or the one value that all have."""
    if len({form.format(value) for value in values}) == 1:
        return form.format(values[0])
    low, middle, high = (form.format(float(np.percentile(values, p))) for p in (0, 50, 100))
    return f"{middle} ({low} to {high})"


def look(shards: Shards, *, source: str, max_area_fraction: float) -> Look:
    """Read up to `LOOKED_AT` photos' sizes and masks the way that training does.

    Args:
        source: the data set's name for people.
        max_area_fraction: `data.max_area_fraction`.

    Raises:
        UserError: no photo can be trained on.
    """
    photos = len(shards)
    chosen = np.unique(np.linspace(0, photos - 1, min(LOOKED_AT, photos)).round().astype(np.int64))
    skips: list[Skip] = []
    found = Look(source=source, photos=photos, looked=len(chosen))
    with ThreadPoolExecutor(_READERS) as pool:
        answers = pool.map(lambda k: _look(shards, int(k), max_area_fraction), chosen)
        for number, (seen, left_out) in zip(chosen.tolist(), answers, strict=True):
            skips += left_out
            if seen is None:
                found.unusable.add(shards.key(number))
            else:
                found.seen.append(seen)
    listed = [reason for part in shards.parts for reason in getattr(part, "reasons", [])]
    found.left_out = [*(r for r in listed if r.kind != "file"), *reasons_of(skips)]
    if not found.seen:
        why = "; ".join(reason.line("unusable:") for reason in found.left_out)
        raise UserError(f"nothing to train on in {source}: {why or 'it has no photo'}")
    return found


def _look(shards: Shards, sample: int, max_area_fraction: float) -> tuple[Seen | None, list[Skip]]:
    """Read a photo: what it holds, if anything can be used, and what cannot."""
    name = shards.key(sample)
    try:
        entry = shards.read(sample)
        photo = open_entry(entry)
        height, width = photo.height, photo.width
        runs = read_masks(entry.json, height=height, width=width).runs
        if isinstance(photo, Image.Image):
            # All of a JPEG's bytes, for a damaged one must not be held out; and few of its pixels.
            to_rgb(photo, at_least=(1, 1))
    except BadSample as bad:
        # A data set's own reader names the photo itself.
        reason, _, named = str(bad).partition(": ")
        if bad.kind == "unusable" and named:
            return None, [Skip(kind="image", reason=reason, name=named)]
        return None, [Skip(kind="image", reason=KINDS[bad.kind], name=f"{name} ({bad})")]
    except OSError as error:
        return None, [Skip(kind="image", reason=KINDS["unreadable"], name=f"{name} ({error})")]
    skips = list(entry.skips)
    pixels = height * width
    usable = select.usable(runs, pixels=pixels, max_area_fraction=max_area_fraction)
    broken = Counter(kind_of(int(status)) for status in runs.status[runs.status != 0])
    for kind, times in broken.items():
        reason = KINDS[kind].partition(" (")[0]
        skips += [Skip(kind="mask", reason=reason, name=name)] * times
    if odd := len(runs.status) - sum(broken.values()) - len(usable):
        reason = "empty, or larger than data.max_area_fraction"
        skips += [Skip(kind="mask", reason=reason, name=name)] * odd
    if not len(usable):
        return None, [*skips, Skip(kind="image", reason="no mask that can be used", name=name)]
    stored = entry.jpeg if entry.pixels is None else entry.pixels.tobytes()
    seen = Seen(
        sample=sample,
        name=name,
        size=(height, width),
        sides=np.sqrt(runs.areas[usable]).tolist(),
        digest=hashlib.blake2b(stored, digest_size=16).digest(),
    )
    return seen, skips
