"""Shards below a folder, and the way out where there are none."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sam_train.data.shards.unpacked import folders_below, pair_up
from sam_train.data.storage.compressed import has_compressed_name, tar_name
from sam_train.errors import UserError
from sam_train.runtime.text import count

log = logging.getLogger(__name__)

_PICTURES = (".png", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".gif", ".heic")


@dataclass(slots=True)
class _Found:
    """Files below a folder, by what they are."""

    shards: list[str] = field(default_factory=list)
    """Tars, and folders that hold a pair."""
    leftovers: list[str] = field(default_factory=list)
    """Folders that hold photos or JSONs and no pair."""
    compressed: list[Path] = field(default_factory=list)
    photos: list[Path] = field(default_factory=list)
    jsons: list[Path] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    """Photos of other formats than JPEG."""


def shards_below(folder: Path, *, option: str) -> list[str]:
    """Return the tars of a folder; where it has none, the tars and the folders of photos and JSONs
    from it down.

    Args:
        option: the setting that the folder comes from, for messages.

    Raises:
        UserError: there are none; says what is there instead.
    """
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    if tars:
        _say_what_is_beside(folder)
        return tars
    found = _look(folder)
    if not found.shards:
        raise UserError(f"{option}: {_nothing_in(folder, found)}")
    if found.compressed:
        _say_compressed(found.compressed)
    # With those that hold no pair: what is alone there is counted and named.
    return sorted([*found.shards, *found.leftovers])


def _look(folder: Path) -> _Found:
    found = _Found()
    for place, names in folders_below(folder):
        found.shards += [str(place / name) for name in names if name.endswith(".tar")]
        found.compressed += [place / name for name in names if has_compressed_name(name)]
        found.pictures += [place / n for n in names if n.lower().endswith(_PICTURES)]
        pairs = pair_up(names)
        if pairs.keys:
            found.shards.append(str(place))
        # Photos here and JSONs in a sibling folder are the usual mistake.
        elif pairs.jpegs or pairs.jsons:
            found.leftovers.append(str(place))
        found.photos += [place / name for name in pairs.without_json]
        found.jsons += [place / name for name in pairs.without_jpeg]
    return found


def _nothing_in(folder: Path, found: _Found) -> str:
    """Say why a folder cannot be trained on, and the way out."""
    if found.compressed:
        first = found.compressed[0]
        if first.suffix.lower() == ".zip":
            way = f"`unzip {first} -d {first.with_suffix('')}`, and give that folder"
        else:
            way = f"`gzip -dc {first} > {tar_name(str(first))}` (xz, bzip2, zstd: likewise)"
        return (
            f"the folder {folder} holds no .tar but {len(found.compressed):,} compressed archives "
            f"(first: {first.name}), which cannot be read in parts: unpack each once, {way}."
        )
    if (kind := _format_of(folder)) is not None:
        return (
            f"the folder {folder} holds no .tar, but looks like a data set of the format {kind}: "
            f"data.train={kind}:{folder} trains on it as it is, and `python -m data_tools.convert "
            f"{kind} --help` makes shards of it."
        )
    if found.photos and len(found.jsons) == 1:
        return (
            f"the folder {folder} holds {len(found.photos):,} photos and one JSON, "
            f"{found.jsons[0].name}, where SA-1B has one for each: `python -m data_tools.convert "
            f"coco --images {found.photos[0].parent} --annotations {found.jsons[0]} --out DIR` "
            "makes shards of COCO's format."
        )
    if found.photos and found.jsons:
        here, there = found.photos[0].parent, found.jsons[0].parent
        link = f"`ln -s {there.resolve()}/*.json {here}/`, or " if here != there else ""
        return (
            f"the folder {folder} holds {len(found.photos):,} photos (first: {found.photos[0]}) "
            f"and {len(found.jsons):,} JSONs (first: {found.jsons[0]}), and none lies beside the "
            f"other of its name: {link}give them the same names in one folder."
        )
    pictures = len(found.photos) + len(found.pictures)
    if pictures:
        return (
            f"the folder {folder} holds no .tar and no pair of .jpg and .json, but "
            f"{count(pictures, 'picture')} without masks of a known format: `python -m "
            "data_tools.convert --help` lists the formats."
        )
    files = what_is_there(folder)
    return f"the folder {folder} holds no .tar, {files}; check the path."


def what_is_there(folder: Path) -> str:
    """Return the kinds of files below a folder of which no data set is known, in words."""
    kinds: Counter[str] = Counter()
    for _, files in folders_below(folder):
        kinds.update(Path(each).suffix.lower() or "no ending" for each in files)
    if not kinds:
        return "no file"
    shown = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common(4))
    return f"no data set of a known format (its files: {shown})"


def _format_of(folder: Path) -> str | None:
    # Here, for the start of runs on shards: readers of formats import those of all photos.
    from sam_train.data.formats.look import look_at  # noqa: PLC0415

    found = look_at(folder)
    return None if found is None or found.format == "shards" else found.format


def _say_what_is_beside(folder: Path) -> None:
    names = sorted(entry.name for entry in folder.iterdir())
    _say_compressed([folder / name for name in names if has_compressed_name(name)])
    pairs = pair_up(names).keys
    if pairs:
        log.warning(
            "%s: its tars are read; %d photos with a JSON beside them are not (first: %s)",
            folder,
            len(pairs),
            pairs[0],
        )


def _say_compressed(found: list[Path]) -> None:
    if found:
        log.warning(
            "%s: %d compressed archives are not read (first: %s); unpack them into .tar",
            found[0].parent,
            len(found),
            found[0].name,
        )
