"""Data sets as lists of images, and the part of each that is measured."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sam_train.data.formats.look import SHARDS
from sam_train.data.formats.spec import DatasetSpec, list_records, read_specs
from sam_train.data.photos.rule import PhotoRule
from sam_train.data.shards.patterns import resolve
from sam_train.data.shards.reader import open_shards
from sam_train.data.storage.open import open_source
from sam_train.errors import UserError
from sam_train.eval.config import EvalConfig
from sam_train.eval.datasets.images import EvalImage, FileImage, ShardImage
from sam_train.runtime.files import write_text

log = logging.getLogger("sam_train")

_AT_ONCE = 64
"""Images whose masks are counted together."""


@dataclass(slots=True, kw_only=True)
class EvalDataset:
    """The part of a data set that is measured."""

    name: str
    images: list[EvalImage]
    """The images taken, in the order of the source."""
    of: int
    """Images of the source."""
    cut: int = 0
    """Images asked for that are beyond `eval.masks` and `eval.images`."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Images and masks that the source's listing left out, by reason."""


def open_datasets(
    cfg: EvalConfig,
    *,
    photos: PhotoRule | None = None,
    cache: Path | None = None,
    wanted: Callable[[EvalImage], bool] | None = None,
) -> list[EvalDataset]:
    """List the data sets of `eval.datasets`, cut to `eval.masks` and `eval.images`.

    The cut takes whole images until there are enough masks. The images' names alone decide their
    order, so it is the same in every run and process, whatever the seed.

    Args:
        photos: the way that photos beyond 8-bit RGB are shown.
        cache: a folder for the images' numbers of masks, as counting them reads mask files.
        wanted: filters images before the cut, possibly all of a data set; all stay by default.

    Raises:
        UserError: a data set cannot be read, or has no image.
    """
    shown = photos or PhotoRule()
    return [_open(spec, cfg, shown, cache, wanted) for spec in read_specs(cfg.datasets)]


def _open(
    spec: DatasetSpec,
    cfg: EvalConfig,
    photos: PhotoRule,
    cache: Path | None,
    wanted: Callable[[EvalImage], bool] | None,
) -> EvalDataset:
    skipped: Counter[str] = Counter()
    if spec.reader == SHARDS:
        images = _of_shards(spec)
    else:
        listing = list_records(spec)
        for skip in listing.skips:
            skipped[f"{skip.kind}: {skip.reason}"] += 1
        for note in listing.notes:
            log.info("%s: %s", spec.name, note)
        images = [
            FileImage(dataset=spec.name, name=r.name, source=spec.digest, record=r, photos=photos)
            for r in listing.records
        ]
    if not images:
        why = ", ".join(f"{n} {reason}" for reason, n in skipped.items())
        raise UserError(f"eval.datasets: {spec.name} has no image{f' ({why})' if why else ''}")
    # Before the cut, or a table of few photos would lose most of them to it.
    asked = [image for image in images if wanted is None or wanted(image)]
    taken = _subset(asked, spec, cfg, cache)
    if len(taken) < len(asked):
        log.info("%s: %d of %d images are taken", spec.name, len(taken), len(asked))
    return EvalDataset(
        name=spec.name,
        images=taken,
        of=len(images),
        cut=len(asked) - len(taken),
        skipped=dict(skipped),
    )


def _of_shards(spec: DatasetSpec) -> list[EvalImage]:
    shards = open_shards(resolve(spec.path, option="eval.datasets"), option="eval.datasets")
    with ThreadPoolExecutor() as pool:
        fingerprints = dict(zip(shards.paths, pool.map(_fingerprint, shards.paths), strict=True))
    places = (shards.place(k) for k in range(len(shards)))
    return [
        ShardImage(
            dataset=spec.name,
            name=place.name,
            source=spec.digest,
            place=place,
            shard=fingerprints[place.path],
        )
        for place in places
    ]


def _fingerprint(shard: str) -> str:
    try:
        facts = open_source(shard).facts()
    except OSError:  # not an error here: each sample of it is skipped with the reason
        return "absent"
    return f"{facts.size} {facts.stamp}"


def _subset(
    images: Sequence[EvalImage], spec: DatasetSpec, cfg: EvalConfig, cache: Path | None
) -> list[EvalImage]:
    # By a hash of the names: a new photo changes the place of no other one.
    order = sorted(range(len(images)), key=lambda k: _draw(images[k].name))
    masks = cfg.masks if spec.masks is None else spec.masks
    if cfg.images is not None:
        order = order[: cfg.images]
    if masks is not None:
        kept = _Counts(cache and cache / f"{spec.name}_{spec.digest}.json")
        order = order[: _enough([images[k] for k in order], masks, kept)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_stamped, [images[k] for k in sorted(order)]))


def _stamped(image: EvalImage) -> EvalImage:
    return image.stamped()


def _draw(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _enough(images: Sequence[EvalImage], masks: int, kept: _Counts) -> int:
    """Count the images that it takes for so many masks."""
    total = 0
    with ThreadPoolExecutor() as pool:
        # In chunks: counting reads files, and most data sets have more masks than are wanted.
        for start in range(0, len(images), _AT_ONCE):
            chunk = list(pool.map(_stamped, images[start : start + _AT_ONCE]))
            missing = [image for image in chunk if image.key not in kept.counts]
            found = pool.map(lambda image: image.count(), missing)
            for image, count in zip(missing, found, strict=True):
                kept.counts[image.key] = count
            for number, image in enumerate(chunk, start=start + 1):
                total += kept.counts[image.key]
                if total >= masks:
                    kept.save()
                    return number
    kept.save()
    return len(images)


class _Counts:
    """Masks by an image's key, on disk for the other processes and the next run."""

    def __init__(self, path: Path | None) -> None:
        self.counts: dict[str, int] = {}
        self._path = path
        if path is not None:
            try:
                read = {str(k): int(n) for k, n in json.loads(path.read_text()).items()}
            except (OSError, ValueError, AttributeError, TypeError):
                read = {}
            self.counts = read
        self._known = len(self.counts)

    def save(self) -> None:
        if self._path is not None and len(self.counts) > self._known:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self.counts))
