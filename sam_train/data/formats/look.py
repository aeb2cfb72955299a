"""A look at a path that a person gives: which format lies there, in which parts, and what is in it.

`look_at` tells formats apart by names and the first few files. Nothing is listed as a whole, so a
look at a million files takes no longer than one at ten.

    found = look_at("/data/fruit")
    found.format            "yolo"
    found.entry             "yolo:/data/fruit", an entry for data.train, data.val, eval.datasets
    found.parts             {"train": "yolo:/data/fruit/train/images", "val": ...}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sam_train.data.formats.base import Format, formats, usual_paths
from sam_train.data.formats.json_kinds import first_keys
from sam_train.data.formats.parts import Part, part_folders, wanted
from sam_train.data.photos.formats import is_photo
from sam_train.data.shards.unpacked import folders_below, pair_up
from sam_train.errors import UserError

SHARDS = "shards"
Entry = str | dict[str, str]
"""A data set as `data.train=`, `data.val=` and `eval.datasets=` take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The format of a path."""

    path: Path
    format: str
    """The name of a format, or `shards` for SA-1B's own files."""
    why: str
    """The reason for that reading, in words for people."""
    parts: dict[str, Entry] = field(default_factory=dict)
    """An entry for each of `train`, `val` and `test` that the data set is divided into."""

    @property
    def entry(self) -> Entry:
        """The whole data set; of a divided one each setting then reads its own part."""
        return f"{self.format}:{self.path}"

    def line(self, setting: str) -> str:
        """Return a sentence for people that says what was taken, and how to insist."""
        part = self.part(setting)
        listed = f"; of its parts {', '.join(self.parts)} this reads {part}" if part else ""
        insist = f"{setting}=NAME:PATH insists on another format"
        return f"{self.path} is read as {self.format}: {self.why}{listed} ({insist})"

    def part(self, setting: str) -> str | None:
        """Return the part that a setting reads, None where there are no parts."""
        return next((name for name in wanted(setting) if name in self.parts), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    kind: type[Format]
    images: Path
    annotations: Path
    parts: tuple[Part, ...]


def look_at(path: str | Path, *, setting: str = "data.train") -> Found | None:
    """Find the format of a file or folder; None where nothing there is known.

    Args:
        path: a data set's folder, or its JSON, YAML, XML or list.
        setting: for messages.

    Raises:
        UserError: it looks like two formats that cannot be told apart.
    """
    place = Path(path).expanduser()
    if (shards := _shards(place)) is not None:
        return shards
    claims = _claims(place)
    if not claims:
        # Last: tars in a folder further down may be what somebody made of the data set here.
        deep = place.is_dir() and any(
            name.endswith(".tar") for _, names in folders_below(place) for name in names
        )
        return Found(path=place, format=SHARDS, why="it holds tars") if deep else None
    if len(claims) > 1:
        names = ", ".join(f"{c.kind.name} ({_shown(place, c.annotations)})" for c in claims)
        first = claims[0].kind.name
        raise UserError(
            f"{setting}: {place} looks like {names}: write {setting}={first}:{place}, or another "
            "of these names"
        )
    (claim,) = claims
    name = claim.kind.name
    shown = _shown(place, claim.annotations)
    return Found(
        path=place,
        format=name,
        why=f"{claim.kind.summary} (in {shown})" if shown else claim.kind.summary,
        parts={part.name: _entry(name, place, part) for part in claim.parts},
    )


def _claims(place: Path) -> list[_Claim]:
    """Return the formats that a place looks like; particular ones displace general ones."""
    claims = []
    for kind in formats().values():
        parts = tuple(kind().find_parts(place))
        if parts:
            first = parts[0]
            claims.append(
                _Claim(kind=kind, images=first.images, annotations=first.annotations, parts=parts)
            )
            continue
        # Of a file, only formats whose annotations are one file can say anything.
        if place.is_file() and (kind.annotations is None or kind.annotations.metavar == "DIR"):
            continue
        folder = place.parent if place.is_file() else place
        images, annotations = usual_paths(kind, folder)
        annotations = place if place.is_file() else annotations
        if images is not None and annotations is not None and kind().fits(images, annotations):
            claims.append(_Claim(kind=kind, images=images, annotations=annotations, parts=()))
    # LVIS is a COCO of its own: where both fit, the derived class says more.
    narrow = [
        c
        for c in claims
        if not any(o.kind is not c.kind and issubclass(o.kind, c.kind) for o in claims)
    ]
    return [c for c in narrow if not c.kind.loose] or narrow


def _entry(name: str, place: Path, part: Part) -> Entry:
    if part.path is not None:
        return f"{name}:{part.path}"
    images, annotations = part.images.absolute(), part.annotations.absolute()
    entry = {"reader": name, "path": str(place), "images": str(images)}
    return {**entry, "annotations": str(annotations)}


def _shown(place: Path, path: Path) -> str:
    if path == place:
        return path.name if path.is_file() else ""
    return path.relative_to(place).as_posix() if path.is_relative_to(place) else str(path)


def _shards(place: Path) -> Found | None:
    """Look for SA-1B's own files: tars, or photos with a JSON of annotations beside each."""
    if place.is_file():
        is_tar = place.suffix == ".tar"
        return Found(path=place, format=SHARDS, why="a tar") if is_tar else None
    if not place.is_dir():
        return None
    if next(place.glob("*.tar"), None) is not None:
        return Found(path=place, format=SHARDS, why="it holds tars")
    why = _pairs(place)
    if why is None:
        return None
    below = part_folders(place)
    parts: dict[str, Entry] = {n: f"{SHARDS}:{f}" for n, f in below.items() if _pairs(f)}
    return Found(path=place, format=SHARDS, why=why, parts=parts)


def _pairs(folder: Path) -> str | None:
    for place, names in folders_below(folder):
        pairs = pair_up(names)
        # Photos of other kinds are read by the format `sa1b`; shards would leave them out.
        others = {Path(name).stem for name in pairs.others if is_photo(Path(name))}
        if any(Path(name).stem in others for name in pairs.without_jpeg):
            return None
        # The first few: one odd file must not hide the others.
        for key in pairs.keys[:3]:
            file = place / pairs.jsons[key]
            keys = first_keys(file)
            if "annotations" in keys and not keys & {"images", "shapes"}:
                return f"photos with SA-1B's JSON beside each (first: {file.name})"
    return None
