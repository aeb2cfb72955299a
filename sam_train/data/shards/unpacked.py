"""SA-1B that somebody has unpacked: folders of `sa_N.jpg` and `sa_N.json`, read as they lie.

A folder is a shard like a tar. Its path is that of the folder; or folder and a file name, which
may hold `*` and `?`, for those of its samples whose photo or JSON has such a name.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from sam_train.data.storage.sources import PIPE, Facts, Source, Span, is_remote, is_sample_file

INDEX_NAME = "sa_index.bin"
_JPEG = (".jpg", ".jpeg")
_JSON = (".json",)
_MAX_DEPTH = 6


@dataclass(slots=True, kw_only=True)
class Pairs:
    """Files sorted by what they are; names as they stand in the tar or folder."""

    jpegs: dict[str, str] = field(default_factory=dict)
    """Key -> name of the photo."""
    jsons: dict[str, str] = field(default_factory=dict)
    """Key -> name of the JSON."""
    others: list[str] = field(default_factory=list)
    """Neither, or the second photo or JSON of a key."""

    @property
    def keys(self) -> list[str]:
        """Keys of the complete samples, in the order of their photos."""
        return [key for key in self.jpegs if key in self.jsons]

    @property
    def without_json(self) -> list[str]:
        """Photos without a JSON of their name."""
        return [name for key, name in self.jpegs.items() if key not in self.jsons]

    @property
    def without_jpeg(self) -> list[str]:
        """JSONs without a photo of their name."""
        return [name for key, name in self.jsons.items() if key not in self.jpegs]


def split(name: str) -> tuple[str, str | None]:
    """Return the key of a file's name and its kind: `jpg`, `json` or None.

    Endings count in any case; a leading `./` is no part of a key. macOS's `._sa_1.jpg` are none.
    """
    stem, dot, ending = name.removeprefix("./").rpartition(".")
    ending = dot + ending.lower()
    # macOS writes such a file beside each one, with the same ending.
    if not stem or stem.rsplit("/", 1)[-1].startswith("._"):
        return stem, None
    return stem, "jpg" if ending in _JPEG else "json" if ending in _JSON else None


def pair_up(names: Sequence[str], *, last_wins: bool = False) -> Pairs:
    """Sort files into samples.

    Args:
        last_wins: of two files of one name the later counts, as in a tar that was appended to;
            of `sa_1.jpg` and `sa_1.jpeg` the first in any case.
    """
    found = Pairs()
    for name in names:
        key, kind = split(name)
        if kind is None:
            found.others.append(name)
            continue
        place = found.jpegs if kind == "jpg" else found.jsons
        if key not in place or (last_wins and _plain(place[key]) == _plain(name)):
            place[key] = name
        else:
            found.others.append(name)
    return found


def _plain(name: str) -> str:
    return name.removeprefix("./")


def is_unpacked(path: str) -> bool:
    """Tell whether a shard's path means files in a folder."""
    local = not is_remote(path) and not path.startswith(PIPE)
    return local and (is_sample_file(path) or Path(path).is_dir())


def place_of(path: str) -> tuple[Path, str]:
    """Return the folder of an unpacked shard and the pattern of names in it."""
    if is_sample_file(path) and not Path(path).is_dir():
        return Path(path).parent, Path(path).name
    return Path(path), "*"


class FolderSource(Source):
    """An unpacked shard. It has no bytes of its own: its samples are read by `read_pair`."""

    def facts(self) -> Facts:
        """Return how many entries its folder has, and when one was last added or taken away."""
        folder, _ = place_of(self.path)
        # Without the index, which is written after its shard was measured.
        entries = sum(name != INDEX_NAME for name in os.listdir(folder))  # noqa: PTH208 - names
        # A file that is replaced in place changes neither; `read_pair` compares sizes for that.
        return Facts(entries, str(folder.stat().st_mtime_ns))

    def read_many(self, spans: Sequence[Span], *, size: int | None = None) -> list[bytes]:
        """Raise: a folder is no file."""
        raise IsADirectoryError(f"{self.name} is a folder of photos and JSONs, not a tar")


def list_folder(path: str) -> tuple[Pairs, dict[str, int], list[str]]:
    """List the files of an unpacked shard.

    Returns:
        The files in pairs, the size of each in bytes, and names of what cannot be read or printed.

    Raises:
        OSError: the folder cannot be listed.
    """
    folder, pattern = place_of(path)
    sizes: dict[str, int] = {}
    refused: list[str] = []
    for name in _names(folder, pattern):
        try:
            status = (folder / name).stat()
        except OSError:  # a link that leads nowhere
            refused.append(name)
            continue
        # Names reach logs and terminals, where a control sequence would act.
        if name.isprintable():
            sizes[name] = status.st_size
        else:
            refused.append(name)
    return pair_up(list(sizes)), sizes, refused


def _names(folder: Path, pattern: str) -> list[str]:
    """List the files of a folder, sorted; with a pattern, those of the samples that it matches."""
    if pattern == "*":
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if not e.is_dir() and e.name != INDEX_NAME]
        return sorted(names)
    if not glob.has_magic(pattern) or glob.escape(unescaped(pattern)) == pattern:
        # One sample: its folder, which may hold a million, is not listed.
        stem, _, ending = unescaped(pattern).rpartition(".")
        ending = f".{ending}"
        jpeg = ending.lower() in _JPEG
        others = _endings(_JSON if jpeg else _JPEG)
        # The given file first, so that its partner may have any ending that is known.
        names = [stem + ending, *(stem + other for other in others)]
        return [name for name in names if (folder / name).exists()]
    every = [(name, *split(name)) for name in _names(folder, "*")]
    chosen = {key for name, key, kind in every if kind and fnmatchcase(name, pattern)}
    return [name for name, key, kind in every if kind and key in chosen]


def unescaped(pattern: str) -> str:
    """Undo `glob.escape`."""
    for sign in "[*?":
        pattern = pattern.replace(f"[{sign}]", sign)
    return pattern


def read_pair(path: str, key: str, *, sizes: tuple[int, int]) -> tuple[bytes, bytes]:
    """Read photo and JSON of a sample.

    Args:
        sizes: what they measured when the folder was listed.

    Raises:
        OSError: one is gone or has another size.
    """
    folder, _ = place_of(path)
    jpeg = _read(folder, key, _JPEG, size=sizes[0])
    return jpeg, _read(folder, key, _JSON, size=sizes[1])


def _read(folder: Path, key: str, endings: Sequence[str], *, size: int) -> bytes:
    for ending in _endings(endings):
        try:
            with (folder / f"{key}{ending}").open("rb") as file:
                # Of the open file: the name may be replaced between a look and a read.
                if os.fstat(file.fileno()).st_size == size:
                    return file.read()
        except FileNotFoundError:
            continue
    raise OSError(f"{folder.name}/{key}{endings[0]} changed since it was indexed")


def times_of(path: str, key: str) -> tuple[int, ...]:
    """Return when the files of a sample were last written; the folder's own time misses that."""
    folder, _ = place_of(path)
    files = (folder / f"{key}{ending}" for ending in _endings([*_JPEG, *_JSON]))
    return tuple(file.stat().st_mtime_ns for file in files if file.is_file())


def _endings(endings: Sequence[str]) -> list[str]:
    # Cameras and Windows write `.JPG`; `.Jpg` is not looked for.
    return [*endings, *(ending.upper() for ending in endings)]


def folders_below(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder from `root` down, sorted, with the names of its files.

    Links are followed, no folder is visited twice, and hidden ones are passed over.
    """
    visited: set[str] = set()

    def visit(folder: Path, depth: int) -> Iterator[tuple[Path, list[str]]]:
        # Links may lead back to a folder above.
        real = os.path.realpath(folder)
        if real in visited or depth > _MAX_DEPTH:
            return
        visited.add(real)
        try:
            with os.scandir(folder) as found:
                entries = sorted((entry.name, entry.is_dir()) for entry in found)
        # A folder that nobody may read (`lost+found`) is no reason to refuse the others.
        except PermissionError:
            return
        yield folder, [name for name, is_folder in entries if not is_folder]
        for name, is_folder in entries:
            if is_folder and not name.startswith((".", "__")):
                yield from visit(folder / name, depth + 1)

    yield from visit(root, 0)
