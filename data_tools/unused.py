"""What lies in a folder of photos and was not used: every file, with its reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from data_tools.photos.files import locate
from data_tools.photos.formats import is_photo, why_unread
from data_tools.readers.records import Listing, Skip

_SYSTEM = frozenset({"thumbs.db", "desktop.ini"})


def unused_files(
    listing: Listing, images: Path, *, without: Collection[Path] = ()
) -> Iterator[Skip]:
    """List the files below a folder that the listing neither uses nor has left out by name.

    Photos of formats that are not read, and photos that no annotation names, are images; all else
    is a file. Hidden files are what other programs left behind, and are not listed.

    Args:
        listing: of a reader, complete.
        images: the folder.
        without: files and folders that are no photos: masks, annotations, the output.
    """
    used = {path.resolve() for path in listing.inputs}
    for record in listing.records:
        used.add(locate(record.image).file.resolve())
        used.update(path.resolve() for path in record.inputs())
    named = {skip.name.split(": ")[0] for skip in listing.skips if skip.kind != "mask"}
    outside = [path.resolve() for path in without]
    for path in sorted(images.rglob("*")):
        relative = path.relative_to(images)
        name = relative.as_posix()
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        resolved = path.resolve()
        if resolved in used or any(resolved.is_relative_to(folder) for folder in outside):
            continue
        if name in named or any(page in named for page in _page_names(relative, named)):
            continue
        if any(parent.as_posix() in named for parent in relative.parents):
            continue
        if path.name.lower() not in _SYSTEM:
            yield _skip(path, name)


def _page_names(relative: Path, named: Collection[str]) -> Iterator[str]:
    """Names among `named` that mean a page of this file."""
    beginning = relative.with_suffix("").as_posix() + "_p"
    return (name for name in named if name.startswith(beginning))


def _skip(path: Path, name: str) -> Skip:
    if reason := why_unread(path):
        return Skip(kind="image", reason=reason, name=name)
    if is_photo(path):
        return Skip(kind="image", reason="no annotation belongs to it", name=name)
    return Skip(kind="file", reason="no photo by its ending", name=name)


__all__ = ["unused_files"]
