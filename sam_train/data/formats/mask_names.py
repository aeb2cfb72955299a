"""Find the mask files of photos by their names.

A mask file names its photo in one of these ways, and the way that gives most photos a mask goes
first (of two that give as many, the one that stands first here):

    folder        x/*.png, x/masks/*.png
    same name     x.png, x.jpg.png
    word          x_mask.tif, mask_x.png, x-seg.png, x_labels.png, image_7.png and mask_7.png
    numbered      x_0.png, x_mask_1.png, x (2).png: a file an object
    longer name   x_left_lung.png: the longest photo's name that it begins with

Names are compared as they are, then without regard to case and Unicode normal form; first at the
same place below both folders, then by the name alone where one photo has it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

WITHOUT_PHOTO = "mask file without a photo"
FOLDER, SAME, WORD, NUMBERED, LONGER = "folder", "same name", "word", "numbered", "longer name"
ARRAYS = frozenset({".npy", ".npz"})
"""Endings of masks that no photo has."""
_FORMATS = (".png", ".tif", ".tiff", ".npy", ".npz", ".bmp", ".gif", ".webp")

_WORDS = (
    "cp_masks|cp_mask|masks|mask|segmentations|segmentation|segm|segs|seg|labelmap|labelids|labels"
    "|label|ground_truth|groundtruth|gt|annotations|annotation|anno|ann|instanceids|instances"
    "|instance|inst|matte|alpha|binary|bw|truth|target"
)
_PHOTO_WORDS = "images|image|img|im|photos|photo|pic|sat|rgb|raw|input|orig|original|src"
_GAP = r"[ _.\-]+"
_AFTER = re.compile(rf"^(?P<stem>.+?){_GAP}(?P<word>{_WORDS})$", re.I)
_BEFORE = re.compile(rf"^(?P<word>{_WORDS}){_GAP}(?P<stem>.+)$", re.I)
_PHOTO_AFTER = re.compile(rf"^(?P<stem>.+?){_GAP}(?:{_PHOTO_WORDS})$", re.I)
_PHOTO_BEFORE = re.compile(rf"^(?:{_PHOTO_WORDS}){_GAP}(?P<stem>.+)$", re.I)
_NUMBER = re.compile(rf"^(?P<stem>.+?){_GAP}(?:(?:object|obj|no|nr|id)[ _.\-]*)?\(?\d+\)?$", re.I)
_PICTURES = re.compile(r"(?:^|[ _.\-])(?:colou?rs?|overlay|vis|viz|preview|rgb|blend)$", re.I)
"""Pictures of masks for people, which annotation tools write beside them."""
MASK_FOLDER = re.compile(rf"^(?:.*{_GAP})?(?:{_WORDS})$", re.I)
"""Names of folders that hold masks."""

Key = tuple[str, str]
"""Folder and name."""


@dataclass(slots=True)
class Matches:
    """Assignment of mask files to photos."""

    files: dict[int, list[int]] = field(default_factory=dict)
    """Places of mask files in their list, by the place of a photo in its list."""
    unused: dict[int, str] = field(default_factory=dict)
    """The reason for which a mask file belongs to no photo, by its place."""
    doubtful: list[tuple[int, int, int]] = field(default_factory=list)
    """(mask file, its photo, the other photo that it could name)."""
    by_name_alone: list[int] = field(default_factory=list)
    """Photos whose masks lie at another place below their folder."""
    spare: set[int] = field(default_factory=set)
    """Unused mask files that name a photo, which has others."""


Ways = Callable[[PurePosixPath], Iterable[tuple[str, str, str]]]


class _Photos:
    """Photos by folder and name."""

    def __init__(self, photos: Sequence[PurePosixPath]) -> None:
        self.exact: dict[Key, int] = {}
        self.folded: dict[Key, list[int]] = defaultdict(list)
        self.cores: dict[Key, list[int]] = defaultdict(list)
        for place, photo in enumerate(photos):
            folder = str(photo.parent)
            for name in (photo.stem, photo.name):
                # The first of two photos that differ in their ending alone.
                self.exact.setdefault((folder, name), place)
                self._add(self.folded, (folder, name), place)
            for pattern in (_PHOTO_AFTER, _PHOTO_BEFORE):
                if match := pattern.match(photo.stem):
                    self._add(self.cores, (folder, match["stem"]), place)

    def _add(self, index: dict[Key, list[int]], key: Key, place: int) -> None:
        if place not in index[_folded(key)]:
            index[_folded(key)].append(place)

    def find(self, folder: str, name: str) -> int | None:
        """Return the place of the photo of this name (with or without its ending)."""
        if (place := self.exact.get((folder, name))) is not None:
            return place
        return self._only(self.folded, (folder, name))

    def find_core(self, folder: str, name: str) -> int | None:
        """Return the place of the photo whose name without `image`, `img`, ... is this one."""
        found = self.find(folder, name)
        return self._only(self.cores, (folder, name)) if found is None else found

    def _only(self, index: dict[Key, list[int]], key: Key) -> int | None:
        places = index.get(_folded(key), [])
        # Two photos that differ in capitals only: none of them is meant for certain.
        return places[0] if len(places) == 1 else None


def mask_files_among(files: Sequence[PurePosixPath], *, suffix: str = "") -> set[int]:
    """Return the places of the mask files in a folder that holds photos, too.

    With a suffix those are the files whose name, or folder, has it. Else they are what lies in a
    folder of masks, files named as another and a word for mask, and PNGs and GIFs beside other
    photos.
    """
    if suffix:
        return {k for k, file in enumerate(files) if _has_suffix(file, suffix)}
    by_place = {k for k, file in enumerate(files) if any(map(MASK_FOLDER.match, file.parts[:-1]))}
    rest = [k for k in range(len(files)) if k not in by_place]
    index = _Photos([files[k] for k in rest])
    by_word = set()
    for k in rest:
        for way, folder, name in _ways(files[k], suffix=""):
            if way.startswith(WORD) or (way == NUMBERED and any(_without_word(files[k].stem))):
                found = index.find_core(folder, name)
                if found is not None and rest[found] != k:
                    by_word.add(k)
    photos = [k for k in rest if k not in by_word]
    pngs = {k for k in photos if files[k].suffix.lower() in (".png", ".gif")}
    only = {k for k, file in enumerate(files) if file.suffix.lower() in ARRAYS}
    # Where all files are PNGs they are the photos, and none of them a mask.
    if len(pngs) < len([k for k in photos if k not in only]):
        by_word |= pngs
    return by_place | by_word | only


def _has_suffix(file: PurePosixPath, suffix: str) -> bool:
    match = _NUMBER.match(file.stem)
    names = [file.stem, file.parent.name, match["stem"] if match else ""]
    return any(name.endswith(suffix) for name in names)


def match_files(
    photos: Sequence[PurePosixPath],
    masks: Sequence[PurePosixPath],
    *,
    suffix: str = "",
    folders: bool = True,
) -> Matches:
    """Match mask files with photos.

    Args:
        photos: paths below the photos' folder; of two with one name the first counts.
        masks: paths below the masks' folder.
        suffix: follows the photo's name in a mask's; "": any of the ways of this module.
        folders: whether a folder may be named as a photo.
    """
    ways = partial(_ways, suffix=suffix, folders=folders)
    # With a suffix the rule is given, and looser readings would break it.
    result = _assigned(_Photos(photos), masks, ways, longer=not suffix)
    if len(result.files) == len(photos) or not result.unused:
        return result
    # The rest by the name alone, where no other photo has it; of a folder or of a file.
    alone = _Photos([PurePosixPath(photo.name) for photo in photos])
    shared = {place for places in alone.folded.values() if len(places) > 1 for place in places}
    # The file's own folder and name first: `x/masks.png` says more than `masks.png`.
    for parts in (2, 1):
        left = sorted(place for place in result.unused if place not in result.spare)
        bare = [PurePosixPath(*masks[place].parts[-parts:]) for place in left]
        found = _assigned(alone, bare, ways, longer=not suffix)
        for photo, files in sorted(found.files.items()):
            if photo in result.files or photo in shared:
                continue
            result.files[photo] = [left[k] for k in files]
            result.by_name_alone.append(photo)
            for k in files:
                del result.unused[left[k]]
    return result


def _assigned(
    photos: _Photos, masks: Sequence[PurePosixPath], ways: Ways, *, longer: bool
) -> Matches:
    readings = [_readings(mask, photos, ways, longer=longer) for mask in masks]
    covered: dict[str, set[int]] = defaultdict(set)
    for found in readings:
        for way, photo in found.items():
            covered[way].add(photo)
    words = sorted(way for way in covered if way.startswith(WORD))
    # sorted() keeps the order of those that give as many photos a mask.
    order = sorted(
        [FOLDER, SAME, *words, NUMBERED, LONGER], key=lambda way: -len(covered.get(way, ()))
    )
    result = Matches()
    way_of: dict[int, str] = {}
    photo_of: dict[int, int] = {}
    for way in order:
        for place in sorted(range(len(masks)), key=lambda k: _preferred(masks[k])):
            photo = readings[place].get(way, -1)
            if photo < 0 or place in photo_of or way_of.setdefault(photo, way) != way:
                continue
            # These ways give one file a photo; only numbered ones and folders give several.
            if photo in result.files and (way == SAME or way.startswith(WORD)):
                continue
            result.files.setdefault(photo, []).append(place)
            photo_of[place] = photo
    for files in result.files.values():
        # Objects are numbered by this order, so 10 must come after 2.
        files.sort(key=lambda k: _natural(masks[k]))
    for place, found in enumerate(readings):
        others = sorted(set(found.values()) - {photo_of.get(place, -1)})
        if place in photo_of:
            result.doubtful += [(place, photo_of[place], other) for other in others[:1]]
        elif found:
            result.spare.add(place)
            result.unused[place] = "mask file beside those taken for its photo"
        else:
            result.unused[place] = WITHOUT_PHOTO
    return result


def _readings(mask: PurePosixPath, photos: _Photos, ways: Ways, *, longer: bool) -> dict[str, int]:
    """Return the photos that a mask file could belong to, by the way of naming."""
    found: dict[str, int] = {}
    for way, folder, name in ways(mask):
        core = way.startswith(WORD)
        photo = photos.find_core(folder, name) if core else photos.find(folder, name)
        if photo is not None:
            found.setdefault(way, photo)
    # The loosest way, asked only where no other gives an answer.
    if not found and longer and not _PICTURES.search(mask.stem):
        for end in sorted((m.start() for m in re.finditer(_GAP, mask.stem)), reverse=True):
            if (photo := photos.find(str(mask.parent), mask.stem[:end])) is not None:
                return {LONGER: photo}
    return found


def _ways(
    mask: PurePosixPath, *, suffix: str, folders: bool = True
) -> Iterator[tuple[str, str, str]]:
    """Yield (way, folder, name of the photo) for every way in which a name can be read."""
    folder, stem, above = str(mask.parent), mask.stem, mask.parent
    if folders:
        yield from _folder_ways(above, suffix=suffix)
    if suffix:
        if stem.endswith(suffix):
            yield SAME, folder, stem.removesuffix(suffix)
        if (match := _NUMBER.match(stem)) and match["stem"].endswith(suffix):
            yield NUMBERED, folder, match["stem"].removesuffix(suffix)
        return
    yield SAME, folder, stem
    for name, word in _without_word(stem):
        yield f"{WORD} {word}", folder, name
        if match := _NUMBER.match(name):
            yield NUMBERED, folder, match["stem"]
    if match := _NUMBER.match(stem):
        yield NUMBERED, folder, match["stem"]
        for name, _ in _without_word(match["stem"]):
            yield NUMBERED, folder, name


def _folder_ways(above: PurePosixPath, *, suffix: str) -> Iterator[tuple[str, str, str]]:
    if suffix:
        if above.name.endswith(suffix):
            yield FOLDER, str(above.parent), above.name.removesuffix(suffix)
        return
    yield FOLDER, str(above.parent), above.name
    for name, _ in _without_word(above.name):
        yield FOLDER, str(above.parent), name
    if MASK_FOLDER.match(above.name):
        yield FOLDER, str(above.parent.parent), above.parent.name


def _without_word(name: str) -> Iterator[tuple[str, str]]:
    """Yield a name without the word that says mask, and that word."""
    for pattern in (_AFTER, _BEFORE):
        if match := pattern.match(name):
            yield match["stem"], match["word"].lower()


def _preferred(path: PurePosixPath) -> tuple[int, str]:
    """Order files of one name: exact formats before those that may have moved values."""
    suffix = path.suffix.lower()
    return _FORMATS.index(suffix) if suffix in _FORMATS else len(_FORMATS), str(path)


def _natural(path: PurePosixPath) -> list[tuple[int, int, str]]:
    """Order 2 before 10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _folded(key: Key) -> Key:
    folder, name = (unicodedata.normalize("NFC", part).casefold() for part in key)
    return folder, name
