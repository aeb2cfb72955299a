"""A folder of images and a folder of mask PNGs: label maps, or one binary PNG per mask."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_tools.photos.files import open_pillow
from data_tools.readers.records import (
    Listing,
    MasksRead,
    Record,
    SkipImageError,
    list_images,
    require_folder,
)
from data_tools.readers.runs import check_size, label_masks

LAYOUTS = ("auto", "labels", "binary")

MAX_LABELS = 20_000
"""More different values than this are a photo, not a label map."""

FOREGROUND_SHARE = 0.51
"""A pixel of a binary PNG is foreground above this share of the file's brightest value. Just over
one half, so that files of {0, 1}, {0, 255} and soft edges all read as meant, while ADE20K's 128
(the hidden part of an object whose visible part is 255) counts as background."""


class MaskFileError(ValueError):
    """A mask PNG that cannot be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMapRecord(Record):
    """An image with one PNG whose values number its masks."""

    path: Path
    ignore: tuple[int, ...] = (0,)

    def inputs(self) -> list[Path]:
        """The PNG."""
        return [self.path]

    def masks(self) -> MasksRead:
        """One mask per value that is not ignored."""
        try:
            labels = read_labels(self.path)
        except MaskFileError as error:
            raise SkipImageError("unreadable mask file", str(error)) from error
        if (values := np.unique(labels).size) > MAX_LABELS:
            raise SkipImageError("not a label map", f"{self.path} has {values} different values")
        read = MasksRead()
        for label, mask in label_masks(labels, ignore=self.ignore).items():
            read.add(f"{self.path.name}: label {label}", mask)
        return read


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryMasksRecord(Record):
    """An image with a folder of PNGs, one mask each."""

    paths: tuple[Path, ...]

    def inputs(self) -> list[Path]:
        """The PNGs."""
        return list(self.paths)

    def masks(self) -> MasksRead:
        """One mask per PNG; an unreadable or black one is counted and left out."""
        read = MasksRead()
        for path in self.paths:
            name = f"{path.parent.name}/{path.name}"
            try:
                mask = read_binary(path)
            except MaskFileError as error:
                read.skip("unreadable mask file", str(error))
                continue
            if mask.any():
                read.add(name, label_masks(mask, ignore=(0,))[1])
            else:
                read.skip("empty", name)
        return read


def _pixels(path: Path) -> npt.NDArray[Any]:
    """[H, W] or [H, W, channels]; palette files give indices, not colours.

    Raises:
        MaskFileError: the file is missing, damaged or not an image.
    """
    try:
        with open_pillow(path) as image:
            # Beyond these sizes the run lengths cannot be encoded.
            check_size(height=image.height, width=image.width)
            return np.array(image)
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and more.
    except Exception as error:
        raise MaskFileError(f"{path}: {error}") from error


def _visible(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Colours [H, W, channels] without the alpha channel, black where it is fully transparent."""
    if pixels.shape[-1] in (2, 4):
        return np.asarray(pixels[..., :-1] * (pixels[..., -1:] > 0))
    return pixels


def read_labels(path: Path) -> npt.NDArray[np.int64]:
    """The label map [H, W] of a PNG of 1, 8, 16 or 32 bits; a colour counts as 0xRRGGBB.

    Raises:
        MaskFileError: the file cannot be read, or holds no whole numbers.
    """
    pixels = _pixels(path)
    if not np.issubdtype(pixels.dtype, np.integer) and pixels.dtype != np.bool_:
        raise MaskFileError(f"{path}: labels must be whole numbers, found {pixels.dtype}")
    if pixels.ndim == 2:
        return pixels.astype(np.int64)
    labels = np.zeros(pixels.shape[:2], dtype=np.int64)
    for channel in np.moveaxis(_visible(pixels), -1, 0):
        labels = (labels << 8) | channel
    return labels


def read_binary(path: Path) -> npt.NDArray[np.bool_]:
    """The mask [H, W] of a PNG that holds one, see FOREGROUND_SHARE.

    Raises:
        MaskFileError: the file cannot be read.
    """
    pixels = _pixels(path)
    values = pixels if pixels.ndim == 2 else _visible(pixels).max(axis=-1)
    return np.asarray(values > FOREGROUND_SHARE * values.max(initial=0))


def list_masks(
    images: Path,
    masks: Path,
    *,
    layout: str = "auto",
    suffix: str = "",
    ignore: Collection[int] = (0,),
) -> Listing:
    """List the images below a folder with their mask files at the same place in another.

    For `a/x.jpg` that is `a/x{suffix}.png` (labels) or the PNGs in `a/x{suffix}/` (binary);
    "auto" takes the folder where there is one. If both folders are the same one, its PNGs are
    masks and its other files images.

    Raises:
        UserError: a folder is missing.
    """
    require_folder(images, "--images")
    require_folder(masks, "--masks")
    same = images.resolve() == masks.resolve()
    inside = masks if not same and masks.resolve().is_relative_to(images.resolve()) else None
    listing = Listing(records=[])
    seen: set[Path] = set()
    for path in list_images(images, without=inside):
        if same and path.suffix.lower() == ".png":
            continue
        relative = path.relative_to(images)
        stem = relative.with_suffix("")
        name = relative.as_posix()
        if stem in seen:
            listing.skip("image", "duplicate name", name)
            continue
        seen.add(stem)
        base = masks / stem.with_name(f"{stem.name}{suffix}")
        record = _record(name, path, base, layout=layout, ignore=tuple(ignore))
        if record is None:
            listing.skip("image", "no mask file", name)
        else:
            listing.records.append(record)
    return listing


def _record(
    name: str, image: Path, base: Path, *, layout: str, ignore: tuple[int, ...]
) -> Record | None:
    """The record of one image whose masks lie at `base/` or `base.png`, if any do."""
    if layout != "labels" and base.is_dir():
        paths = tuple(sorted(p for p in base.iterdir() if p.suffix.lower() == ".png"))
        return BinaryMasksRecord(name=name, image=image, paths=paths)
    # Not with_suffix: the stem may contain dots.
    labels = base.with_name(f"{base.name}.png")
    if layout != "binary" and labels.is_file():
        return LabelMapRecord(name=name, image=image, path=labels, ignore=ignore)
    return None
