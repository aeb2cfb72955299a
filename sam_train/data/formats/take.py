"""A record as a sample: its photo, the masks that fit it, and what was left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from pycocotools import mask as coco_mask

from sam_train.data.formats.records import MasksRead, Record, SourceMask
from sam_train.data.left_out import Skip, SkipImageError
from sam_train.data.photos.files import refuse_large

LEFT_OUT = "its image was left out"


class _Sized(Protocol):
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


Photo = TypeVar("Photo", bound=_Sized)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingMasks:
    """Masks of a photo's size with enough pixels, and those that are not."""

    masks: list[SourceMask]
    areas: list[int]
    """Pixels of each."""
    skips: list[Skip]


@dataclass(slots=True, kw_only=True)
class TakenRecord(Generic[Photo]):
    """A record that was read."""

    photo: Photo | None = None
    """None if the image was left out."""
    masks: list[SourceMask] = field(default_factory=list)
    """The masks that fit; at least one where there is a photo."""
    skips: list[Skip] = field(default_factory=list)
    """The image and masks that were left out."""
    read: MasksRead = field(default_factory=MasksRead)
    """The source's masks, fitting or not."""


def take_record(
    record: Record,
    photo_of: Callable[[Path, Collection[tuple[int, int]]], Photo],
    *,
    min_area: int = 1,
) -> TakenRecord[Photo]:
    """Read a record's photo and masks. A fault becomes a counted skip.

    Args:
        photo_of: reads the photo; takes the (height, width) of the masks, which decide whether a
            photo is turned upright. Raises a SkipImageError where the photo cannot be used.
        min_area: masks of fewer pixels are left out; empty ones always are.
    """
    result: TakenRecord[Photo] = TakenRecord()

    def skip(kind: str, reason: str, name: str) -> None:
        result.skips.append(Skip(kind=kind, reason=reason, name=name))

    try:
        with record.photo() as path:
            # From its header, before masks of that size are read.
            try:
                refuse_large(path)
            except SkipImageError:
                for name in record.known():
                    skip("mask", LEFT_OUT, name)
                raise
            result.read = record.masks()
            result.skips += result.read.skips
            # All: masks of one photo may disagree, and the photo is turned to fit one.
            sizes = {tuple(m.segmentation["size"][:2]) for m in result.read.masks}
            if not sizes:
                raise SkipImageError("no mask")
            photo = photo_of(path, {(rows, columns) for rows, columns in sizes})
    except SkipImageError as error:
        detail = f" ({error.detail})" if error.detail else ""
        skip("image", error.reason, f"{record.name}{detail}")
        for mask in result.read.masks:
            skip("mask", LEFT_OUT, mask.name)
        return result
    fitting = fitting_masks(
        result.read.masks, height=photo.height, width=photo.width, min_area=min_area
    )
    result.skips += fitting.skips
    if not fitting.masks:
        skip("image", "no mask left", record.name)
        return result
    result.photo, result.masks = photo, fitting.masks
    return result


def fitting_masks(
    masks: Sequence[SourceMask],
    *,
    height: int,
    width: int,
    min_area: int,
    setting: str = "--min-area",
) -> FittingMasks:
    """Choose the masks that have the photo's size and at least `min_area` pixels.

    Args:
        setting: what people set `min_area` with, for the reason.
    """
    found = FittingMasks(masks=[], areas=[], skips=[])
    for mask in masks:
        rows, columns = mask.segmentation["size"]
        # Scaling a mask would guess at what was meant, and often hides a wrong photo.
        if (rows, columns) != (height, width):
            sizes = f"{columns} x {rows}, image {width} x {height}"
            found.skips.append(
                Skip(
                    kind="mask",
                    reason="size differs from the image's",
                    name=f"{mask.name} ({sizes})",
                )
            )
            continue
        area = int(coco_mask.area(mask.segmentation))
        # An empty mask has no pixel to click on, whatever the setting.
        if area < max(min_area, 1):
            reason = "empty" if area == 0 else f"smaller than {setting}"
            found.skips.append(Skip(kind="mask", reason=reason, name=mask.name))
            continue
        found.masks.append(mask)
        found.areas.append(area)
    return found
