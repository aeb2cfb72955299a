"""Photos by the names that another machine gave them: drives, folders, `%20`, other capitals.

A name that leads to a file is taken as it is. Any other is compared with the files below the
photos' folder and taken where exactly one file can be meant.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from sam_train.data.formats.records import IMAGE_SUFFIXES

Parts = tuple[str, ...]

_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_DRIVE = re.compile(r"^[a-zA-Z]:(?=[/\\])")
_ROBOFLOW = re.compile(r"^(.+)_(jpe?g|png|bmp|tiff?|webp)\.rf\.[0-9a-z]{6,}\.\w+$", re.IGNORECASE)
# Label Studio puts eight hexadecimal digits in front of what is uploaded.
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(.+)$", re.IGNORECASE)
_SAME_SUFFIX = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
_SHOWN = 3
_AT_ONCE = 32
_CHUNK = 100
"""Names that a thread asks the disk for in one go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPhoto:
    """The file that a name means."""

    name: str
    """The name as given where that leads to the file, else the path below the folder."""
    path: Path
    """The file's path; that of the one that should be there if none is found."""
    missing: str | None = None
    """None if it is found; else the files that it could be, for people, or ""."""
    renamed: bool = False
    """True if it lies under another name than the one given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guess:
    """The files that one name may mean."""

    files: tuple[Parts, ...]
    """An empty one stands for a file that is not there."""
    whole: bool = False
    """True if no folder was left out and no letter changed."""
    elsewhere: bool = False
    """True if the name's folder is another than the file's."""
    ending: bool = False
    """True if only the kind of file differs."""


def find_photos(folder: Path, names: Sequence[Sequence[str]]) -> list[FoundPhoto]:
    """Find the files of photos below a folder.

    A file that two different names could mean belongs to the one that gives its whole path, or to
    none of them.

    Args:
        folder: of the photos.
        names: for each photo the names it may have, the likeliest first.

    Returns:
        A file for each photo, in order.
    """
    parts = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    # Threads, because a network file system answers each question slowly and many at once.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda part: [_exact(folder, own) for own in part], parts)
        exact = [found for part in answers for found in part]
    foreign = {own[0] for own, found in zip(names, exact, strict=True) if found is None and own}
    # The usual case: the folder is not even listed.
    if not foreign:
        return [found or _absent(folder, own) for own, found in zip(names, exact, strict=True)]
    files = _Files(folder)
    taken = {_inside(folder, found.path) for found in exact if found is not None}
    guesses = _settled(files, {name: files.guess(_parts(name)) for name in foreign}, taken)
    guessed = {name: _as_found(folder, name, guess) for name, guess in guesses.items()}
    return [
        found or (guessed[own[0]] if own else _absent(folder, own))
        for own, found in zip(names, exact, strict=True)
    ]


def rename_note(found: Iterable[FoundPhoto], names: Sequence[Sequence[str]]) -> list[str]:
    """Return a sentence on the photos that lie under other names, or none."""
    found = list(found)
    renamed = [(own[0], one.name) for own, one in zip(names, found, strict=True) if one.renamed]
    if not renamed:
        return []
    given, name = renamed[0]
    count = f"{len(renamed):,} of {len(found):,} photos lie" if len(found) > 1 else "the photo lies"
    return [f"{count} under another name than the file gives, as {given}: {name}"]


def _exact(folder: Path, names: Sequence[str]) -> FoundPhoto | None:
    """Return the first name that leads to a file; URLs by their folder and name, or name alone."""
    for name in names:
        for tried in _tails(name):
            path = folder / tried
            try:
                if path.is_file():
                    return FoundPhoto(name=tried, path=path)
            except (OSError, ValueError):  # too long, or with a zero byte
                continue
    return None


def _tails(name: str) -> list[str]:
    if not _URL.match(name):
        return [name]
    parts = urlsplit(name).path.strip("/").split("/")
    # COCO's URLs end with `train2017/1.jpg`, and the folder may or may not be on this disk.
    return list(dict.fromkeys(["/".join(parts[-2:]), parts[-1]])) if parts[-1] else []


def _absent(folder: Path, names: Sequence[str]) -> FoundPhoto:
    name = (_tails(names[0]) or [names[0]])[0] if names else ""
    path = folder / name
    try:
        path.is_file()
    except OSError:  # a name too long for any file, which whoever asks for it would meet again
        # Whoever opens it gets "no such file", not an error of the file system.
        path = folder / "(impossible name)"
    return FoundPhoto(name=name, path=path, missing="")


def _as_found(folder: Path, name: str, guess: _Guess) -> FoundPhoto:
    if len(guess.files) == 1:
        inside = "/".join(guess.files[0])
        return FoundPhoto(name=inside, path=folder / inside, renamed=True)
    absent = _absent(folder, [name])
    shown = ", ".join("/".join(file) for file in guess.files[:_SHOWN] if file)
    rest = len(guess.files) - _SHOWN
    return FoundPhoto(
        name=absent.name, path=absent.path, missing=shown + (", ..." if rest > 0 else "")
    )


def _parts(name: str) -> Parts:
    """Return the folders and the name within a path or URL of any system."""
    if _URL.match(name):
        url = urlsplit(name)
        # Label Studio's local files: /data/local-files/?d=folder/a.jpg
        given = parse_qs(url.query).get("d", [""])[0]
        name = given or unquote(url.path)
    elif "/?d=" in name:
        name = unquote(name.split("?d=", 1)[1])
    name = _DRIVE.sub("", name).replace("\\", "/")
    # macOS stores accents apart from their letters, other systems in one.
    parts = [unicodedata.normalize("NFC", part) for part in name.split("/")]
    return tuple(part for part in parts if part not in ("", ".", ".."))


def _inside(folder: Path, path: Path) -> Parts:
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    return tuple(unicodedata.normalize("NFC", part) for part in relative.split("/"))


class _Files:
    """The files below a folder, by their names as others may write them."""

    def __init__(self, folder: Path) -> None:
        self.folders: set[str] = set()
        self.own_name = folder.absolute().name.casefold()
        self._real: dict[Parts, Parts] = {}
        self._by: list[dict[str, list[Parts]]] = [defaultdict(list) for _ in range(3)]
        for root, below, names in os.walk(folder):
            # In place, which is how `os.walk` is told where to go.
            below[:] = sorted(one for one in below if not one.startswith("."))
            self.folders |= {unicodedata.normalize("NFC", one).casefold() for one in below}
            parents = Path(root).relative_to(folder).parts
            for name in sorted(names):
                if _split(name.lower())[1] in IMAGE_SUFFIXES and name[0] != ".":
                    self._add((*parents, name))

    def _add(self, real: Parts) -> None:
        plain = tuple(unicodedata.normalize("NFC", part) for part in real)
        self._real[plain] = real
        for own, key in zip(self._by, _keys(plain[-1]), strict=True):
            if key:
                own[key].append(plain)

    def real(self, plain: Parts) -> Parts:
        """Return a path as the disk has it: composed or decomposed."""
        return self._real[plain]

    def guess(self, parts: Parts) -> _Guess:
        """Return the files that a path may mean, as it stands or with its `%20` taken for what
        they are."""
        found = self._guess(parts)
        if not found.files and any("%" in part for part in parts):
            unquoted = "/".join(parts)
            found = self._guess(_parts(unquote(unquoted)))
        return found

    def _guess(self, parts: Parts) -> _Guess:
        if not parts:
            return _Guess(files=())
        keys = _keys(parts[-1])
        # From the strictest to the loosest; the first that finds anything decides.
        for level, key in enumerate(keys):
            if key and (candidates := self._by[level].get(key)):
                return self._nearest(parts, candidates, ending=level == 1)
        return _Guess(files=())

    def _nearest(self, parts: Parts, candidates: Sequence[Parts], *, ending: bool) -> _Guess:
        ranks = [
            (common := _common(parts, file), file[-1] == parts[-1], len(file) == common + 1)
            for file in candidates
        ]
        # Most folders in common, then the same capitals, then nothing in front of them.
        best = max(ranks)
        files = tuple(f for f, rank in zip(candidates, ranks, strict=True) if rank == best)
        if len(files) > 1:
            return _Guess(files=files)
        left, over = parts[: -1 - best[0]], files[0][: -1 - best[0]]
        if len(left) == 1 and left[0].casefold() == self.own_name:
            left = ()  # the folder of the photos itself
        below = {part.casefold() for part in over[:-1]}
        if left and left[-1].casefold() in self.folders - below:
            return _Guess(files=(files[0], ()))  # it should lie in that folder, and does not
        whole = not left and not over and best[1]
        return _Guess(files=files, whole=whole, elsewhere=bool(left and over), ending=ending)


def _keys(name: str) -> list[str]:
    """Return a file's name ever more loosely: without capitals, and jpeg as jpg; without its
    ending; without what Roboflow and Label Studio add."""
    folded = name.casefold().strip()
    stem, suffix = _split(folded)
    plain = stem + _SAME_SUFFIX.get(suffix, suffix)
    uploaded = _UPLOAD.sub(r"\1", _ROBOFLOW.sub(r"\1.\2", folded))
    own_stem, own_suffix = _split(uploaded)
    uploaded = own_stem + _SAME_SUFFIX.get(own_suffix, own_suffix)
    return [plain, stem if suffix in IMAGE_SUFFIXES else folded, uploaded]


def _common(one: Parts, other: Parts) -> int:
    """Return how many folders before the name are the same."""
    count = 0
    # From the name upwards, since roots differ from machine to machine.
    for mine, its in zip(one[-2::-1], other[-2::-1], strict=False):
        if mine.casefold() != its.casefold():
            break
        count += 1
    return count


def _settled(files: _Files, guesses: dict[str, _Guess], taken: set[Parts]) -> dict[str, _Guess]:
    """Leave each file to one name, and those that cannot be told apart to none."""
    identities = {name: _identity(name, files) for name in guesses}
    # By identity: two spellings of one path are no quarrel.
    claims: dict[Parts, dict[Parts, _Guess]] = defaultdict(dict)
    for name, guess in guesses.items():
        if len(guess.files) == 1:
            claims[guess.files[0]][identities[name]] = guess
    # A folder that names give, and what stands before it there. Other names that have another
    # folder in its place mean other photos: video2/7.png is not video1/7.png.
    named = {(file[:-1], file[:-2]) for file in taken if len(file) > 1}
    endings = {_suffix(file[-1]) for file in taken}
    for file, own in claims.items():
        for identity, guess in own.items():
            if len(file) > 1 and len(identity) > 1 and not guess.elsewhere:
                named.add((file[:-1], identity[:-2]))
            if not guess.ending:
                endings.add(_suffix(file[-1]))
    settled = {}
    for name, guess in guesses.items():
        refused: tuple[Parts, ...] = ()
        if len(guess.files) == 1:
            file, own = guess.files[0], claims[guess.files[0]]
            whole = [identity for identity, one in own.items() if one.whole]
            shared = len(own) > 1 and whole != [identities[name]]
            listed = file in taken and not guess.whole
            stray = guess.elsewhere and (file[:-1], identities[name][:-2]) in named
            if shared or listed or stray or (guess.ending and _suffix(name) in endings):
                refused = ((),)
        meant = (files.real(file) if file else () for file in guess.files)
        settled[name] = _Guess(files=(*meant, *refused))
    return settled


def _suffix(name: str) -> str:
    found = _split(name.lower())[1]
    return _SAME_SUFFIX.get(found, found)


def _split(name: str) -> tuple[str, str]:
    """Return a file's name without its ending, and the ending with its dot."""
    stem, dot, ending = name.rpartition(".")
    return (stem, dot + ending) if stem and ending else (name, "")


def _identity(name: str, files: _Files) -> Parts:
    """Return what equals only the same path in other clothes."""
    parts = _parts(unquote("/".join(_parts(name))))
    if len(parts) > 1 and parts[0].casefold() == files.own_name:
        return parts[1:]
    return parts
