"""The format `bsds`: BSDS500, one .mat file per photo with segmentations of five people or so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.leftovers import count_leftovers
from sam_train.data.formats.records import (
    Listing,
    MasksRead,
    Record,
    SourceMask,
    list_images,
    require_folder,
)
from sam_train.data.left_out import SkipImageError
from sam_train.masks.runs import Segmentation, label_masks

DEDUPE_IOU = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class BsdsRecord(Record):
    """A photo with its ground-truth file."""

    ground_truth: Path
    dedupe_iou: float = DEDUPE_IOU

    def inputs(self) -> list[Path]:
        """Return the .mat file."""
        return [self.ground_truth]

    def masks(self) -> MasksRead:
        """Read every segment of every person; those that nearly coincide count once.

        What people cut differently stays side by side: nested and overlapping, as in SA-1B.
        Segments in several pieces stay as they are.
        """
        read = MasksRead()
        found: list[SourceMask] = []
        for person, labels in enumerate(read_segmentations(self.ground_truth), start=1):
            for label, mask in _segments(self.ground_truth, labels).items():
                name = f"{self.ground_truth.name}: person {person}, segment {label}"
                found.append(SourceMask(name=name, segmentation=mask))
        # pycocotools gives -1 for masks of different sizes, without an error.
        if len({tuple(mask.segmentation["size"]) for mask in found}) > 1:
            raise SkipImageError("segmentations of different sizes", str(self.ground_truth))
        keep = distinct([mask.segmentation for mask in found], max_iou=self.dedupe_iou)
        for source, kept in zip(found, keep, strict=True):
            if kept:
                read.masks.append(source)
            else:
                read.skip("merged with a near-identical one", source.name)
        return read


def _segments(path: Path, labels: npt.NDArray[np.int64]) -> dict[int, Segmentation]:
    try:
        return label_masks(labels)
    except ValueError as error:
        raise SkipImageError("unreadable .mat", f"{path}: {error}") from error


def distinct(masks: list[Any], *, max_iou: float) -> list[bool]:
    """Choose masks, first come, so that no two of them have an IoU above `max_iou`."""
    if not masks:
        return []
    # No crowds (0): with 1 the union would be replaced by the first mask's area.
    iou = np.asarray(coco_mask.iou(masks, masks, [0] * len(masks)))
    kept: list[int] = []
    for i in range(len(masks)):
        # First come, so the result does not depend on anything but the file's order.
        if not (iou[i, kept] > max_iou).any():
            kept.append(i)
    chosen = set(kept)
    return [i in chosen for i in range(len(masks))]


def read_segmentations(path: Path) -> list[npt.NDArray[np.int64]]:
    """Read the label maps [H, W] of a BSDS ground-truth file, one per person.

    Raises:
        SkipImageError: the file is unreadable or of another layout.
    """
    # Here, for the start of every run: 0.3 s that only this format needs.
    from scipy.io import loadmat  # noqa: PLC0415

    try:
        # MATLAB's cell array is [1, people], of structs in arrays of their own.
        people = loadmat(path)["groundTruth"][0]
        maps = [np.asarray(person["Segmentation"][0][0]) for person in people]
    # A damaged .mat makes scipy fail in a dozen ways, from zlib.error to UnboundLocalError.
    except Exception as error:
        raise SkipImageError("unreadable .mat", f"{path}: {error!r}") from error
    for labels in maps:
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.number):
            raise SkipImageError("unreadable .mat", f"{path}: a segmentation is not a label map")
    return [labels.astype(np.int64) for labels in maps]


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        # Out of range, so that both mistakes get the same message.
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"must be a number from 0 to 1, got {text!r}")
    return value


@register
@dataclass(frozen=True, kw_only=True)
class Bsds(Format):
    """BSDS500: the photos whose `stem.mat` lies at the same place in another folder."""

    name = "bsds"
    summary = "BSDS500's images and groundTruth (.mat)"
    image_places = ("images/val", "data/images/val", "BSDS500/data/images/val", "images")
    annotation_places = (
        "groundTruth/val",
        "data/groundTruth/val",
        "BSDS500/data/groundTruth/val",
        "groundTruth",
    )
    annotations = Annotations(flag="--ground-truth", metavar="DIR")

    dedupe: float = option(
        DEDUPE_IOU,
        parse=_share,
        metavar="IOU",
        help="merge masks of one photo that overlap more than this (default: %(default)s; 1: none)",
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the photos in the order of their paths."""
        return _listing(images, annotations, dedupe_iou=self.dedupe)

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a file of MATLAB's."""
        return next(annotations.rglob("*.mat"), None) is not None


def _listing(images: Path, ground_truth: Path, *, dedupe_iou: float) -> Listing:
    require_folder(images, "--images")
    require_folder(ground_truth, "--ground-truth")
    listing = Listing(records=[])
    stems: set[Path] = set()
    for path in list_images(images):
        relative = path.relative_to(images)
        mat = ground_truth / relative.with_suffix(".mat")
        if relative.with_suffix("") in stems:
            listing.skip("image", "duplicate name", relative.as_posix())
        elif not mat.is_file():
            listing.skip("image", "no .mat file", relative.as_posix())
        else:
            stems.add(relative.with_suffix(""))
            listing.records.append(
                BsdsRecord(
                    name=relative.as_posix(), image=path, ground_truth=mat, dedupe_iou=dedupe_iou
                )
            )
    count_leftovers(listing, ground_truth, images=images, endings=(".mat",))
    return listing
