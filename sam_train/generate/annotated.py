"""The masks that photos have already, looked up by the photo's name."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from sam_train.data.sample.decode import BadSample, as_rle, read_masks
from sam_train.data.shards.reader import open_shards
from sam_train.errors import UserError
from sam_train.generate.existing import Existing
from sam_train.generate.inputs import PhotoPlace
from sam_train.masks.changes import from_coco

log = logging.getLogger("sam_train")


class Annotated:
    """SA-1B shards with partial ground truth (`generate.existing`)."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Index the shards.

        Raises:
            UserError: as `open_shards`, or two photos of one name.
        """
        self._shards = open_shards(patterns, option="generate.existing")
        self._samples: dict[str, int] = {}
        for sample in range(len(self._shards)):
            # Without folders, which the photos' paths seldom share.
            key = self._shards.key(sample).rpartition("/")[2]
            if key in self._samples:
                raise UserError(f"generate.existing: two photos are called {key}")
            self._samples[key] = sample

    def __len__(self) -> int:
        return len(self._samples)

    def check(self, photos: Sequence[PhotoPlace]) -> None:
        """Count the `photos` that have masks here, and log their number.

        Raises:
            UserError: no photo has any, or photos of one name would share masks.
        """
        first: dict[str, PhotoPlace] = {}
        for photo in photos:
            if photo.key not in self._samples:
                continue
            if photo.key in first:
                raise UserError(
                    f"generate.existing: {first[photo.key].name} and {photo.name} would both take "
                    f"the masks of {photo.key}: give them names of their own"
                )
            first[photo.key] = photo
        if not first:
            raise UserError(
                f"generate.existing has masks of {next(iter(self._samples))}, but of none of the "
                f"{len(photos)} photos ({photos[0].key}, ...): names without extension must be "
                "equal, and the photos inside the same shards have them: use the shards as "
                "generate.input, too"
            )
        log.info("generate.existing: masks for %d of %d photos", len(first), len(photos))

    def of(self, key: str, photo: tuple[int, int]) -> Existing | None:
        """Read the masks of the photo called `key` of (H, W) pixels; None if none are known.

        Raises:
            UserError: they are of another size than the photo, or cannot be read. Proposals
                would then repeat existing masks.
        """
        sample = self._samples.get(key)
        if sample is None:
            return None
        height, width = photo
        try:
            masks = read_masks(self._shards.read(sample).json, height=height, width=width)
        except (BadSample, OSError) as error:
            raise UserError(f"generate.existing: {key} cannot be read ({error})") from None
        if len(masks.runs.status) and (masks.runs.status != 0).all():
            raise UserError(
                f"generate.existing: no mask of {key} fits its photo of {width} x {height} pixels"
            )
        # A few bad masks are a warning. If none fits, the photo is probably another one.
        usable = np.flatnonzero((masks.runs.status == 0) & (masks.runs.areas > 0)).tolist()
        if bad := len(masks.runs.status) - len(usable):
            log.warning("generate.existing: %d masks of %s are invalid or empty", bad, key)
        rles = (as_rle(masks, k, height=height, width=width) for k in usable)
        return Existing.of([from_coco(rle) for rle in rles], photo)
