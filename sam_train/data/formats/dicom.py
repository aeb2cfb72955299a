"""The format `dicom`: slices of DICOM series, and DICOM-SEG objects that name them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.base import Annotations, Format, register
from sam_train.data.formats.records import Listing, MasksRead, Record, require_folder
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.dicom import (
    SUFFIXES,
    frames_of,
    is_dicom,
    pydicom,
    read_header,
    read_pixels,
)
from sam_train.masks.runs import label_masks
from sam_train.runtime.text import count


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentFrame:
    """A frame of a segmentation, which marks one segment in one slice."""

    file: Path
    frame: int
    name: str
    """The segment's number and label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomRecord(Record):
    """A slice, and the frames of segmentations about it."""

    patient: str
    frames: tuple[SegmentFrame, ...]

    def inputs(self) -> list[Path]:
        """Return the files of the segmentations."""
        return sorted({each.file for each in self.frames})

    def group(self) -> str:
        """Return the patient, whose slices and series resemble each other."""
        return self.patient

    def masks(self) -> MasksRead:
        """Return one mask for each segment that has a pixel in the slice."""
        read = MasksRead()
        for each in self.frames:
            name = f"{self.name}: {each.name} of {each.file.name}"
            try:
                pixels = _segmentation(each.file, each.file.stat().st_mtime_ns)
            except SkipImageError as error:
                read.skip("unreadable mask file", f"{name}: {error.detail}")
                continue
            marked = pixels[each.frame] if pixels.ndim == 3 else pixels
            found = label_masks(marked, ignore=(0,))
            if 1 in found:
                read.add(name, found[1])
            else:
                read.skip("empty", name)
        return read


@lru_cache(maxsize=4)
def _segmentation(file: Path, changed: int) -> npt.NDArray[np.uint8]:
    """Read the frames of a segmentation as 0 and 1, [frames, H, W] or [H, W]."""
    data, pixels = read_pixels(file)
    if str(getattr(data, "SegmentationType", "BINARY")) == "FRACTIONAL":
        # Half of what stands for certainty.
        return (2 * pixels.astype(np.int64) >= int(data.MaximumFractionalValue)).astype(np.uint8)
    return (pixels > 0).astype(np.uint8)


@dataclass(slots=True, kw_only=True)
class _Slice:
    file: Path
    uid: str
    series: str
    patient: str
    place: tuple[float, int]
    """Position across the slices, and the number within the series."""
    frames: int


@register
@dataclass(frozen=True, kw_only=True)
class Dicom(Format):
    """Series and segmentations anywhere below a folder, matched by the UIDs in them."""

    name = "dicom"
    summary = "DICOM series with DICOM-SEG masks, as slices (pip install 'sam_train[medical]')"
    image_places = ("",)
    annotation_places = ("",)
    annotations = Annotations(
        flag="--masks", metavar="DIR", help="folder of DICOM-SEG files", required=False
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the slices that a segmentation names, series by series in their order in space."""
        require_folder(images, "--images")
        pydicom()
        listing = Listing(records=[])
        slices: list[_Slice] = []
        marked: dict[tuple[str, int], list[SegmentFrame]] = defaultdict(list)
        for path in _files(images, annotations):
            try:
                header = read_header(path)
                if str(getattr(header, "Modality", "")) == "SEG":
                    _add_frames(marked, path, header)
                elif hasattr(header, "Rows"):
                    slices.append(_slice(path, header))
                else:
                    listing.skip("file", "a DICOM file without a picture", path.name)
            except SkipImageError as error:
                listing.skip("image", error.reason, f"{path.name} ({error.detail})")
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                listing.skip("image", "unreadable DICOM header", f"{path.name} ({error})")
        without = _add_records(listing, images, slices, marked)
        if without:
            listing.notes.append(f"{count(without, 'slice')} without a segment are not taken")
        for frames in marked.values():
            listing.skip("mask", "its slice is missing", f"{frames[0].file.name}: {frames[0].name}")
        return listing

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a DICOM file by its ending."""
        # A few: other formats have folders of a million files.
        return any(path.suffix.lower() in SUFFIXES for path in islice(images.rglob("*"), 1000))


def _files(images: Path, annotations: Path) -> Sequence[Path]:
    folders = [images] if annotations.is_relative_to(images) else [images, annotations]
    found = {
        path: folder
        for folder in folders
        for path in folder.rglob("*")
        # Scanners and archives write names without an ending, or with a UID's last number as one.
        if path.is_file() and (path.suffix.lower() in SUFFIXES or is_dicom(path))
        if path.name != "DICOMDIR" and not path.name.startswith(".")
    }
    return sorted(found, key=lambda path: path.as_posix())


def _slice(path: Path, header: Any) -> _Slice:
    position = getattr(header, "ImagePositionPatient", None)
    turned = getattr(header, "ImageOrientationPatient", None)
    across = 0.0
    if position is not None and turned is not None:
        rows, columns = np.array(turned[:3], float), np.array(turned[3:], float)
        # Along the stack's own normal: series are not always cut along an axis of the body.
        across = float(np.cross(rows, columns) @ np.array(position, float))
    series = str(getattr(header, "SeriesInstanceUID", "") or path.parent)
    return _Slice(
        file=path,
        uid=str(getattr(header, "SOPInstanceUID", "")),
        series=series,
        patient=str(getattr(header, "PatientID", "") or "") or series,
        # Rounded, so that slices of one place, such as two echoes, keep the order of their numbers.
        place=(round(across, 3), int(getattr(header, "InstanceNumber", None) or 0)),
        frames=frames_of(header),
    )


def _add_frames(marked: dict[tuple[str, int], list[SegmentFrame]], path: Path, header: Any) -> None:
    """Add the frames of a segmentation, by the slice that each is about."""
    labels = {
        int(each.SegmentNumber): str(getattr(each, "SegmentLabel", ""))
        for each in header.SegmentSequence
    }
    shared = getattr(header, "SharedFunctionalGroupsSequence", None) or [None]
    for frame, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        numbers = _first(group, shared[0], "SegmentIdentificationSequence")
        number = int(numbers.ReferencedSegmentNumber)
        derived = _first(group, shared[0], "DerivationImageSequence")
        source = derived.SourceImageSequence[0]
        # Absent for files of one frame.
        part = getattr(source, "ReferencedFrameNumber", None) or 1
        part = int(part[0]) if isinstance(part, Sequence) else int(part)
        name = f"segment {number} {labels.get(number, '')}".strip()
        key = str(source.ReferencedSOPInstanceUID), part
        marked[key].append(SegmentFrame(file=path, frame=frame, name=name))


def _first(group: Any, shared: Any, name: str) -> Any:
    """Return the first item of a functional group, which all frames may share."""
    for each in (group, shared):
        if each is not None and getattr(each, name, None):
            return getattr(each, name)[0]
    raise ValueError(f"a frame of a segmentation has no {name}")


def _add_records(
    listing: Listing,
    images: Path,
    slices: Sequence[_Slice],
    marked: dict[tuple[str, int], list[SegmentFrame]],
) -> int:
    """Add a record for each slice that has segments, taking these; return the others' number."""
    without = 0
    for each in sorted(slices, key=lambda s: (s.patient, s.series, s.place, s.file.as_posix())):
        for frame in range(1, each.frames + 1):
            frames = marked.pop((each.uid, frame), None)
            if frames is None:
                without += 1
                continue
            file = each.file
            if each.frames > 1:
                file = file.with_name(f"{file.stem}_p{frame:03d}{file.suffix}")
            listing.records.append(
                DicomRecord(
                    name=file.relative_to(images).as_posix(),
                    image=file,
                    patient=each.patient,
                    frames=tuple(frames),
                )
            )
    return without
