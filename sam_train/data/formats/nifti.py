"""The format `nifti`: volumes and label volumes, as slices.

- `imagesTr/` and `labelsTr/`: `case.nii.gz` or `case_0000.nii.gz` beside `case.nii.gz`
- one folder, or one a case: `case.nii.gz` or `case_flair.nii.gz` beside `case_seg.nii.gz`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.mask_files import MaskFileError, as_labels
from sam_train.data.formats.records import Listing, MasksRead, Record, require_folder
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.volumes import (
    AXES,
    ending_of,
    header_of,
    locate_slice,
    nibabel,
    read_volume,
    slice_name,
)
from sam_train.masks.labels import split_regions
from sam_train.masks.runs import label_masks
from sam_train.runtime.text import count

_SEGMENTATION = re.compile(r"(?P<case>.+?)[-_.](seg|segmentation|label|labels|mask|gt)", re.I)
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiRecord(Record):
    """A slice of a volume, and the same slice of the label volume."""

    labels: Path
    case: str
    ignore: tuple[int, ...] = (0,)
    regions: int = 0

    def inputs(self) -> list[Path]:
        """Return the label volume."""
        return [self.labels]

    def group(self) -> str:
        """Return the case, whose slices resemble each other."""
        return self.case

    def masks(self) -> MasksRead:
        """Return one mask for each label of the slice, or for each of its regions."""
        read, place = MasksRead(), locate_slice(self.image)
        assert place is not None
        labels = _labels(read_volume(self.labels).slice_of(place.axis, place.index), self.labels)
        values = None
        if self.regions:
            found = split_regions(labels, ignore=self.ignore, connectivity=self.regions)
            labels, values = found.labels, found.values
        masks = label_masks(labels, ignore=(0,) if self.regions else self.ignore)
        for label, mask in masks.items():
            what = f"label {label if values is None else values[label - 1]}"
            name = what if values is None else f"region {label} of {what}"
            # Below zero there is no object, in masks of every kind.
            if values is not None or label > 0:
                read.add(f"{self.name}: {name}", mask)
        return read


def _labels(values: npt.NDArray[Any], where: Path) -> npt.NDArray[np.int64]:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    try:
        labels = as_labels(values, where) if values.ndim == 2 else None
    except MaskFileError as error:
        raise SkipImageError("not a label volume", str(error)) from None
    if labels is None:
        raise SkipImageError("not a label volume", f"{where} has {values.shape[2]} bands")
    return labels


@register
@dataclass(frozen=True, kw_only=True)
class Nifti(Format):
    """Volumes and label volumes of the same shape; every slice with a label is an image."""

    name = "nifti"
    summary = "NIfTI volumes and label volumes, as slices (pip install 'sam_train[medical]')"
    image_places = ("imagesTr", "images", "")
    annotation_places = ("labelsTr", "labels", "masks", "")
    annotations = Annotations(flag="--masks", metavar="DIR", help="folder of label volumes")

    axis: str = option(
        "auto",
        choices=("auto", *AXES),
        help="axis of the array that slices are taken along (default: that of the largest voxels, "
        "the last of equal ones)",
    )
    channel: str = option(
        "",
        metavar="TEXT",
        help="of a case's several images, the one whose name ends so: 0001, flair "
        "(default: the first)",
    )
    regions: int = option(
        0,
        parse=int,
        choices=(4, 8),
        const=4,
        help="each connected region of a slice is an object, not each label",
    )
    ignore: tuple[int, ...] = option(
        (0,), parse=int, many=True, metavar="LABEL", help="labels that are no object (default: 0)"
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the slices that have a label, case by case."""
        require_folder(images, "--images")
        require_folder(annotations, "--masks")
        nibabel()
        listing = Listing(records=[])
        without = 0
        for case, files, labels in _cases(images, annotations, listing):
            chosen = [f for f in files if _stem(f).endswith(self.channel)]
            if not chosen:
                listing.skip("image", f"no channel {self.channel}", case)
                continue
            try:
                without += self._add(listing, case, chosen[0], labels, images)
            except SkipImageError as error:
                detail = f" ({error.detail})" if error.detail else ""
                listing.skip("image", error.reason, f"{case}{detail}")
        if without:
            listing.notes.append(f"{count(without, 'slice')} without a label are not taken")
        return listing

    def _add(self, listing: Listing, case: str, image: Path, labels: Path, images: Path) -> int:
        """Add the slices of a case that have a label; return how many have none."""
        header = header_of(image)
        shape = tuple(header.shape[:3])
        found = read_volume(labels).values
        if found.shape[:3] != shape:
            raise SkipImageError(
                "label volume of another shape", f"{list(found.shape[:3])}, image {list(shape)}"
            )
        axis = _axis(header, self.axis)
        others = tuple(k for k in range(found.ndim) if k != axis)
        # Stored values: scaled ones are looked at slice by slice, where masks are read.
        marked = ((found > 0) & ~np.isin(found, self.ignore)).any(axis=others)
        for index in np.flatnonzero(marked).tolist():
            name = slice_name(image, axis=axis, index=index)
            record = NiftiRecord(
                name=name.relative_to(images).as_posix(),
                image=name,
                labels=labels,
                case=case,
                ignore=self.ignore,
                regions=self.regions,
            )
            listing.records.append(record)
        return int((~marked).sum())

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a volume and a label volume by their names."""
        # A few names first: other formats have folders of a million files.
        if not any(map(ending_of, islice(images.rglob("*"), 1000))):
            return False
        return annotations.is_dir() and bool(_cases(images, annotations, Listing(records=[])))


def _axis(header: Any, wanted: str) -> int:
    if wanted != "auto":
        return AXES.index(wanted)
    sizes = np.nan_to_num(np.abs(np.asarray(header.header.get_zooms()[:3], dtype=np.float64)))
    # Slices were acquired across the coarse axis; scanners round sizes.
    return int(np.flatnonzero(sizes >= 0.99 * sizes.max())[-1])


def _cases(
    images: Path, annotations: Path, listing: Listing
) -> Sequence[tuple[str, Sequence[Path], Path]]:
    """Match images and label volumes by name; count what has no other half."""
    together = images.resolve() == annotations.resolve()
    photos: dict[str, list[Path]] = {}
    labels: dict[str, Path] = {}
    for path in _volumes(images):
        marked = _SEGMENTATION.fullmatch(_stem(path)) if together else None
        if marked is not None:
            labels[_below(images, path, marked["case"])] = path
        else:
            channel = _CHANNEL.fullmatch(_stem(path))
            case = _stem(path) if channel is None else channel["case"]
            photos.setdefault(_below(images, path, case), []).append(path)
    if not together:
        for path in _volumes(annotations):
            marked = _SEGMENTATION.fullmatch(_stem(path))
            exact = _below(annotations, path, _stem(path))
            case = exact if exact in photos or marked is None else marked["case"]
            labels[case if exact in photos else _below(annotations, path, case)] = path
    found = []
    for case, path in sorted(labels.items()):
        # `case_flair` and `case_t1` are images of `case`.
        files = photos.pop(case, [])
        if not files:
            names = [n for n in sorted(photos) if n.startswith(f"{case}_") and n not in labels]
            files = [photo for name in names for photo in photos.pop(name)]
        if files:
            found.append((case, files, path))
        else:
            listing.skip("file", "label volume without an image", path.name)
    for name in photos:
        listing.skip("image", "no label volume", name)
    return found


def _volumes(folder: Path) -> list[Path]:
    found = [p for p in folder.rglob("*.nii*") if ending_of(p) and not p.name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(ending_of(path))]


def _below(folder: Path, path: Path, name: str) -> str:
    return path.relative_to(folder).with_name(name).as_posix()
