"""Count the files of a source's folders that nothing was made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_tools.readers.foreign import describe
from data_tools.readers.records import Listing


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder that is not hidden, sorted by path."""
    for path in sorted(folder.rglob("*"), key=lambda p: p.relative_to(folder).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def count_leftovers(
    listing: Listing,
    folders: Iterable[Path],
    *,
    counted: Iterable[Path] = (),
    reason: Callable[[Path], str] = describe,
) -> None:
    """Count as `file` whatever lies below the folders and is no photo, mask or annotation of the
    listing.

    Args:
        listing: complete; its skips of files are added to.
        folders: where to look; one inside another is looked at once.
        counted: files that the listing has skips for.
        reason: names why a file is left out.
    """
    place = _Places()
    known = {place(path) for path in (*counted, *listing.inputs)}
    for record in listing.records:
        known |= {place(path) for path in (record.image, *record.inputs())}
    for folder in folders:
        for path in files_below(folder):
            where = place(path)
            if where not in known:
                known.add(where)
                listing.skip("file", reason(path), path.relative_to(folder).as_posix())


class _Places:
    """Paths whose folders are resolved, each folder once. A link to a file is a file of its own."""

    def __init__(self) -> None:
        self._folders: dict[Path, Path] = {}

    def __call__(self, path: Path) -> Path:
        if path.parent not in self._folders:
            self._folders[path.parent] = path.parent.resolve()
        return self._folders[path.parent] / path.name


__all__ = ["count_leftovers", "files_below"]
