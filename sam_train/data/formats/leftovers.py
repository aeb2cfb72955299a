"""Count the files of a source's folders that nothing was made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sam_train.data.formats.foreign import describe
from sam_train.data.formats.mask_files import MASK_SUFFIXES
from sam_train.data.formats.mask_names import WITHOUT_PHOTO
from sam_train.data.formats.records import Listing
from sam_train.data.photos.files import locate
from sam_train.data.photos.formats import is_photo, why_unread

_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder that is not hidden, sorted by path."""
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def count_leftovers(
    listing: Listing,
    folder: Path,
    *,
    images: Path,
    counted: Iterable[Path] = (),
    endings: Iterable[str] = MASK_SUFFIXES,
) -> None:
    """Count as `file` what lies in a folder of masks and belongs to no record.

    Args:
        listing: complete; files that nothing was made of are added to its skips.
        folder: of masks or ground truths.
        images: of photos, whose files are counted with the photos.
        counted: files that the listing has skips for.
        endings: of mask files; others are named for what they are.
    """
    place = _Places()
    known = {place(path) for path in (*counted, *listing.inputs)}
    for record in listing.records:
        known |= {place(path) for path in (record.image, *record.inputs())}
    photos = images.resolve()
    # `count_unused` names what lies among the photos, once.
    if folder.resolve() == photos:
        return
    around = photos.is_relative_to(folder.resolve())
    for path in files_below(folder):
        where = place(path)
        if where in known or (around and where.is_relative_to(photos)):
            continue
        reason = WITHOUT_PHOTO if path.suffix.lower() in endings else describe(path)
        listing.skip("file", reason, path.relative_to(folder).as_posix())


def count_unused(
    listing: Listing, images: Path, *, without: Iterable[Path], shared: bool = False
) -> None:
    """Count what lies among the photos, and is neither used nor left out by name.

    Photos that no annotation names, and photos of formats that are not read, are images; all else
    is a file. Hidden files are what other programs left behind, and are not listed.

    Args:
        listing: complete, its skips with names below `images`.
        images: the folder of photos.
        without: files and folders that have other things: masks, annotations, the output.
        shared: whether masks lie in this folder; else names of files are below another one.
    """
    place = _Places()
    known = {place(path) for path in listing.inputs}
    for record in listing.records:
        known |= {place(path) for path in (record.image, *record.inputs())}
    kinds = ("image", "file") if shared else ("image",)
    named = {skip.name.split(": ")[0] for skip in listing.skips if skip.kind in kinds}
    apart = [path.resolve() for path in without]
    for path in files_below(images):
        name = path.relative_to(images)
        if path.name.lower() in _SYSTEM or place(path) in known:
            continue
        if any(place(path).is_relative_to(other) for other in apart):
            continue
        # A folder that was left out stands for all that is in it.
        if any(part.as_posix() in named for part in (name, *name.parents)):
            continue
        beginning = name.with_suffix("").as_posix() + "_p"
        if any(page.startswith(beginning) for page in named):
            continue
        if reason := why_unread(path):
            listing.skip("image", reason, name.as_posix())
        elif is_photo(path):
            listing.skip("image", "no annotation belongs to it", name.as_posix())
        else:
            listing.skip("file", describe(path), name.as_posix())


class _Places:
    """Files whose folders are resolved, each folder once. A page stands for its file; a link to a
    file is a file of its own."""

    def __init__(self) -> None:
        self._folders: dict[Path, Path] = {}

    def __call__(self, path: Path) -> Path:
        file = locate(path).file
        if file.parent not in self._folders:
            # Once a folder: resolving each of a million files takes minutes on a network disk.
            self._folders[file.parent] = file.parent.resolve()
        return self._folders[file.parent] / file.name
