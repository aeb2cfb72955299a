"""The format `masks`: images and mask files: label maps, one object a file, or pages of either."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from sam_train.data.formats.base import Annotations, Format, option, register
from sam_train.data.formats.leftovers import count_leftovers, files_below
from sam_train.data.formats.mask_files import (
    MASK_SUFFIXES,
    MAX_LABELS,
    MaskFileError,
    Page,
    read_pages,
)
from sam_train.data.formats.mask_names import Matches, mask_files_among, match_files
from sam_train.data.formats.mask_rules import (
    FOREGROUNDS,
    LAYOUTS,
    NotAMaskError,
    Rules,
    Taken,
    learn,
    take,
)
from sam_train.data.formats.parts import some_files
from sam_train.data.formats.records import (
    IMAGE_SUFFIXES,
    Listing,
    MasksRead,
    Record,
    list_images,
    require_folder,
)
from sam_train.data.left_out import SkipImageError
from sam_train.data.photos.files import locate, pages
from sam_train.masks.labels import most_pieces, split_regions
from sam_train.masks.runs import label_masks
from sam_train.runtime.text import count

MANY_PIECES = 4
"""An object in so many pieces looks like several."""
COUNTED_LABELS = 300
"""Pieces are counted in maps of at most so many labels: more are instances, not classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasksRecord(Record):
    """An image with its mask files."""

    paths: tuple[Path, ...]
    rules: Rules = field(default_factory=Rules)
    page: int | None = None
    """The page of every file that belongs to this image, from 0; None: all of them."""

    def inputs(self) -> list[Path]:
        """Return the mask files."""
        return list(self.paths)

    def masks(self) -> MasksRead:
        """Return the objects of every file; one that is unreadable, no mask or black is counted."""
        read = MasksRead()
        refused: list[tuple[str, str]] = []
        for path in self.paths:
            # The folder tells files of many photos apart, which are all called `0.png`.
            name = path.name if len(self.paths) == 1 else f"{path.parent.name}/{path.name}"
            try:
                for number, page in enumerate(read_pages(path)):
                    if self.page is None or self.page == number:
                        self._take(read, page, path, name)
            except NotAMaskError as error:
                refused.append(("not a mask", f"{name}: {error}"))
            except MaskFileError as error:
                refused.append(("unreadable mask file", str(error)))
        # The stack of masks may be shorter than that of photos.
        if self.page is not None and not (read.masks or read.skips or refused):
            raise SkipImageError("no page of the mask file", f"page {self.page + 1}")
        # One file is the photo's only chance; of several the others may still do.
        if refused and not (read.masks or read.skips) and len(self.paths) == 1:
            raise SkipImageError(*refused[0])
        for reason, detail in refused:
            read.skip(reason, detail)
        return read

    def _take(self, read: MasksRead, page: Page, path: Path, name: str) -> None:
        name = f"{name}, {page.name}" if page.name else name
        taken = take(page, self.rules, where=path)
        found = label_masks(taken.labels, ignore=taken.ignore)
        if self.rules.ignore is None:
            # Numbers below zero say that there is no object (-1 in many tools).
            found = {label: mask for label, mask in found.items() if label > 0}
        # After background and what is ignored are gone, which may be most of the values.
        if len(found) > MAX_LABELS:
            raise NotAMaskError(f"{len(found)} different values")
        if not found:
            read.skip("empty", name)
            return
        what = taken.what
        if self.rules.regions:
            what = f"{what}; each connected region an object"
            self._add_regions(read, taken, found, name)
        else:
            for label, mask in found.items():
                read.add(name if taken.single else f"{name}: label {label}", mask)
            # Counted for a note only: a class map that was taken for instances is a usual mistake.
            if len(found) <= COUNTED_LABELS and len(self.paths) == 1:
                self._count_pieces(read, taken, found, name)
        read.taken.append(what)

    def _add_regions(
        self, read: MasksRead, taken: Taken, found: Collection[int], name: str
    ) -> None:
        out = _others(taken, found)
        regions = split_regions(taken.labels, ignore=out, connectivity=self.rules.regions)
        for number, mask in label_masks(regions.labels, ignore=(0,)).items():
            label = "" if taken.single else f" of label {regions.values[number - 1]}"
            read.add(f"{name}: region {number}{label}", mask)

    def _count_pieces(
        self, read: MasksRead, taken: Taken, found: Collection[int], name: str
    ) -> None:
        pieces = most_pieces(taken.labels, ignore=_others(taken, found))
        if pieces >= MANY_PIECES:
            read.in_pieces.append((name, pieces))


def _others(taken: Taken, found: Collection[int]) -> tuple[int, ...]:
    """Return the values of a map that are no object: those that are ignored or below zero."""
    if int(taken.labels.min(initial=0)) >= 0 or min(found) < 0:
        return taken.ignore
    # Each value by itself: `ignore` is a list of values, not a bound.
    return (*taken.ignore, *np.unique(taken.labels[taken.labels < 0]).tolist())


def _label(text: str) -> int:
    """Read a label value, as 255 or 0xRRGGBB."""
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"must be a whole number, got {text!r}") from None


def _background(labels: tuple[int, ...]) -> tuple[int, ...] | None:
    # Entries of `eval.datasets` have always said the default this way.
    return None if labels == (0,) else labels


@register
@dataclass(frozen=True, kw_only=True)
class Masks(Format):
    """Photos with mask files, found by name in the same folder or another, inside or around it."""

    name = "masks"
    summary = "photos and mask files (PNG, TIF, JPEG, npy, ...): label maps or one file per mask"
    annotation_places = ("masks", "labels", "annotations", "")
    annotations = Annotations(flag="--masks", metavar="DIR")
    loose = True

    layout: str = option(
        "auto",
        choices=LAYOUTS,
        help="labels: each value of a file is an object; binary: each file is one "
        "(default: %(default)s, as the values say)",
    )
    regions: int = option(
        0,
        parse=int,
        choices=(4, 8),
        const=4,
        help="each connected region is an object: pixels touch by a side (4, where no number is "
        "given) or also by a corner (8)",
    )
    foreground: str = option(
        "auto",
        choices=FOREGROUNDS,
        help="of black-and-white masks: which of the two is the object (default: bright, and dark "
        "where several files, and all, are white all around)",
    )
    suffix: str = option(
        "",
        flag="--mask-suffix",
        metavar="TEXT",
        help="a mask is named as its image + this (default: any of the usual ways)",
    )
    ignore: tuple[int, ...] | None = option(
        None,
        parse=_label,
        many=True,
        metavar="LABEL",
        entry=_background,
        help="label values that are no mask, as 255 or 0xRRGGBB (default: 0 and below, and 255 "
        "where the other values are classes)",
    )

    def list(self, images: Path, annotations: Path) -> Listing:
        """List the photos in the order of their paths."""
        return _listing(
            images,
            annotations,
            layout=self.layout,
            suffix=self.suffix,
            ignore=self.ignore,
            regions=self.regions,
            foreground=self.foreground,
        )

    def fits(self, images: Path, annotations: Path) -> bool:
        """Look for a mask file with a photo that it is named after."""
        if not annotations.is_dir():
            return False
        if images.resolve() == annotations.resolve():
            files = list(some_files(images, sorted(MASK_SUFFIXES | IMAGE_SUFFIXES), most=400))
            names = [_below(images, path) for path in files]
            masks = mask_files_among(names)
            photos = [name for k, name in enumerate(names) if k not in masks]
            return bool(match_files(photos, [names[k] for k in sorted(masks)]).files)
        own = next(some_files(annotations, sorted(MASK_SUFFIXES), most=1), None)
        return own is not None and next(_some_photos(images, without=annotations), None) is not None


def _some_photos(folder: Path, *, without: Path) -> Iterator[Path]:
    for path in some_files(folder, sorted(IMAGE_SUFFIXES), most=4_000):
        if not path.is_relative_to(without):
            yield path


def _listing(
    images: Path,
    masks: Path,
    *,
    layout: str,
    suffix: str,
    ignore: Collection[int] | None,
    regions: int,
    foreground: str,
) -> Listing:
    require_folder(images, "--images")
    require_folder(masks, "--masks")
    photos, files = _photos_and_masks(images, masks, suffix=suffix)
    listing = Listing(records=[])
    names = [_below(images, path) for path in photos]
    mask_names = [_below(masks, path) for path in files]
    matches = match_files(names, mask_names, suffix=suffix, folders=layout != "labels")
    # After the match by name: `stack_p003.tif` may have a mask of its own.
    of_page = _pages_of_stacks(photos, names, mask_names, matches, suffix=suffix)
    used = sorted(place for places in matches.files.values() for place in places)
    rules = learn(
        [files[place] for place in used],
        layout=layout,
        ignore=ignore,
        foreground=foreground,
        regions=regions,
    )
    first: dict[PurePosixPath, int] = {}
    for place, (path, name) in enumerate(zip(photos, names, strict=True)):
        # `a.jpg` and `a.png` would both claim the masks of `a`.
        owner = first.setdefault(name.with_suffix(""), place)
        if place in matches.files:
            found, page = tuple(files[k] for k in matches.files[place]), of_page.get(place)
            record = MasksRecord(
                name=name.as_posix(), image=path, paths=found, rules=rules, page=page
            )
            listing.records.append(record)
        elif owner != place and owner in matches.files:
            listing.skip("image", "duplicate name", name.as_posix())
        else:
            listing.skip("image", "no mask file", name.as_posix())
    listing.notes += _notes(matches, names, mask_names)
    for place, reason in sorted(matches.unused.items()):
        listing.skip("file", reason, mask_names[place].as_posix())
    count_leftovers(listing, masks, images=images, counted=files)
    return listing


def _pages_of_stacks(
    photos: Sequence[Path],
    names: Sequence[PurePosixPath],
    masks: Sequence[PurePosixPath],
    matches: Matches,
    *,
    suffix: str,
) -> dict[int, int]:
    """Match pages of photos without masks of their own with the pages of their file's masks.

    Adds to `matches` and returns the page of the masks, from 0, by the photo's place.
    """
    stacks: dict[PurePosixPath, dict[int, int]] = {}
    for place, (path, name) in enumerate(zip(photos, names, strict=True)):
        found = locate(path)
        if found.is_named and place not in matches.files:
            stacks.setdefault(name.with_name(found.file.name), {})[found.page] = place
    left = sorted(matches.unused)
    files = list(stacks)
    more = match_files(files, [masks[k] for k in left], suffix=suffix)
    of_page = {}
    for number, used in more.files.items():
        for page, place in stacks[files[number]].items():
            matches.files[place] = [left[k] for k in used]
            of_page[place] = page
        # Only now that all pages have their share of the file.
        for k in used:
            del matches.unused[left[k]]
    return of_page


def _photos_and_masks(images: Path, masks: Path, *, suffix: str) -> tuple[list[Path], list[Path]]:
    """Return the photos and the mask files, told apart by name where one folder has both."""
    # Resolved, since a link may lead to the same folder under another name.
    if images.resolve() == masks.resolve():
        photos = {locate(path).file for path in list_images(images)}
        both = [p for p in files_below(images) if p in photos or p.suffix.lower() in MASK_SUFFIXES]
        taken = mask_files_among([_below(images, path) for path in both], suffix=suffix)
        files = [path for k, path in enumerate(both) if k in taken]
        left = [p for k, p in enumerate(both) if k not in taken and p in photos]
        return [page for path in left for page in pages(path)], files
    within = masks if masks.resolve().is_relative_to(images.resolve()) else None
    # Photos inside the masks' folder are no mask files, whatever their ending.
    around = images.resolve() if images.resolve().is_relative_to(masks.resolve()) else None
    files = [
        path
        for path in files_below(masks)
        if path.suffix.lower() in MASK_SUFFIXES
        and not (around is not None and path.resolve().is_relative_to(around))
    ]
    return list(list_images(images, without=within)), files


def _below(folder: Path, path: Path) -> PurePosixPath:
    return PurePosixPath(path.relative_to(folder).as_posix())


def _notes(
    matches: Matches, photos: Sequence[PurePosixPath], masks: Sequence[PurePosixPath]
) -> list[str]:
    """Return sentences on names that could be read in two ways, or fit at another place only."""
    notes = []
    if matches.doubtful:
        mask, photo, other = matches.doubtful[0]
        notes.append(
            f"{count(len(matches.doubtful), 'mask file')} could belong to another photo by name: "
            f"{masks[mask]} was taken for {photos[photo]}, not for {photos[other]}"
        )
    if matches.by_name_alone:
        place = matches.by_name_alone[0]
        notes.append(
            f"{count(len(matches.by_name_alone), 'photo')} found masks by name alone, at another "
            f"place below --masks: {photos[place]} in {masks[matches.files[place][0]]}"
        )
    return notes
