"""Data sets as people write them, `KIND:PATH` or an entry with options, and their paths."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from sam_train.data.formats.base import Format, Option, formats, usual_paths
from sam_train.data.formats.foreign import other_kind
from sam_train.data.formats.look import SHARDS, look_at
from sam_train.data.formats.parts import chosen_part
from sam_train.data.formats.records import Listing
from sam_train.data.shards.places import what_is_there
from sam_train.data.storage.sources import PIPE
from sam_train.errors import UserError

log = logging.getLogger(__name__)

WRITTEN = re.compile(r"(?:[^/:=]*=)?(?P<kind>[\w.-]{2,}):.+", re.DOTALL)
"""`KIND:PATH` or `NAME=KIND:PATH`; a single letter is a drive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """A data set that a setting names."""

    setting: str
    """`eval.datasets`, `data.train` or `data.val`, for messages."""
    name: str
    reader: str
    """The name of a format, or SHARDS."""
    format: Format | None
    """The format with its options; None for shards."""
    path: str = ""
    """The data set's folder (of shards: any pattern that data.val takes)."""
    images: str = ""
    """The photos, where they do not lie as the format expects below `path`."""
    annotations: str = ""
    """The JSON, or the folder of masks or ground truths, likewise."""
    masks: int | None = None
    """Masks to take, in place of eval.masks."""
    looked: bool = False
    """True if a look found the format, and has said which part is read."""

    @property
    def digest(self) -> str:
        """The fingerprint of what decides which files are read and how."""
        read = [self.reader, self.path, self.images, self.annotations, self.format]
        # The name and the number of masks are left out: neither changes what is read.
        return hashlib.blake2b(repr(read).encode(), digest_size=3).hexdigest()


def read_specs(datasets: Any, *, setting: str = "eval.datasets") -> list[DatasetSpec]:
    """Read the data sets of a setting, in order.

    Args:
        datasets: a text, an entry, or a list of these.
        setting: for messages.

    Raises:
        UserError: nothing is given, an entry cannot be read, or two have the same name.
    """
    specs = [spec for entry in entries_of(datasets) for spec in read_entry(entry, setting=setting)]
    if not specs:
        raise UserError(
            f"{setting} is not set: name data sets with masks, such as "
            f"{setting}=[coco:/data/coco,shards:/data/sa1b] (docs/datasets.md)"
        )
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"{setting}: two are called {name}; write NAME={name}:PATH for one of them"
            )
    return specs


def entries_of(datasets: Any) -> list[Any]:
    """Return what a setting holds as a list of texts and mappings, without empty ones."""
    # OmegaConf's containers are neither lists nor mappings to `isinstance`.
    if isinstance(datasets, ListConfig | DictConfig):
        datasets = OmegaConf.to_container(datasets, resolve=True)
    listed = [datasets] if isinstance(datasets, str | Mapping) else list(datasets or [])
    return [entry for entry in listed if entry]


def split_entries(patterns: Any, *, setting: str) -> tuple[list[str], list[DatasetSpec]]:
    """Separate the patterns of shards from the data sets of other formats.

    Args:
        patterns: what `data.train` holds.
        setting: for messages.

    Raises:
        UserError: an entry cannot be read, or there is no such kind.
    """
    shards: list[str] = []
    specs: list[DatasetSpec] = []
    for entry in entries_of(patterns):
        if not _is_written(entry):
            spec = _found_by_looking(str(entry), setting)
            found = [spec] if spec is not None else []
            # Whatever a look does not know may still be a pattern, a list or a URL of shards.
            shards += [] if found else [str(entry)]
        else:
            found = list(read_entry(entry, setting=setting))
        for spec in found:
            if spec.format is None:
                shards.append(spec.path)
            else:
                specs.append(spec)
    return shards, specs


def _found_by_looking(text: str, setting: str) -> DatasetSpec | None:
    """Return the data set at a path of which no kind is given; None where none is known."""
    path = Path(text).expanduser()
    if "://" in text or text.startswith(PIPE) or not path.exists():
        return None
    found = look_at(path, setting=setting)
    if found is None:
        return None
    # Shards in one piece have always been read without a word.
    if found.format != SHARDS or found.parts:
        log.info("%s: %s", setting, found.line(setting))
    # Formats choose their part where they read it; shards have no such place.
    part = found.part(setting) if found.format == SHARDS else None
    entry = found.entry if part is None else found.parts[part]
    (spec,) = read_entry(entry, setting=setting)
    return replace(spec, looked=True)


def _is_written(entry: Any) -> bool:
    """Tell whether an entry is a data set: `KIND:PATH`, a mapping, or a YAML file of such."""
    if isinstance(entry, Mapping):
        return True
    text = str(entry)
    if text.endswith((".yaml", ".yml")) and WRITTEN.fullmatch(text) is None:
        # A YOLO data set is described by a YAML, too, which is a mapping and no list.
        return not _is_mapping(Path(text).expanduser())
    # `s3://` has the form of KIND:PATH, and so may the name of a file that exists.
    if "://" in text or text.startswith(PIPE) or Path(text).expanduser().exists():
        return False
    return WRITTEN.fullmatch(text) is not None


def _is_mapping(file: Path) -> bool:
    try:
        return isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False


def kind_written(text: str, *, setting: str) -> str | None:
    """Return the format of a text `KIND:PATH`; None where it is no such text.

    Raises:
        UserError: there is no such kind.
    """
    found = WRITTEN.fullmatch(text)
    if found is None:
        return None
    _kind(found["kind"], setting)
    return found["kind"]


def read_entry(entry: Any, *, setting: str) -> Sequence[DatasetSpec]:
    """Read one entry; a YAML file has several.

    Raises:
        UserError: it cannot be read, or there is no such kind.
    """
    if isinstance(entry, Mapping):
        return [_from_mapping(entry, setting, setting)]
    text = str(entry)
    if (WRITTEN.fullmatch(text) is None or Path(text).expanduser().exists()) and (
        spec := _found_by_looking(text, setting)
    ) is not None:
        return [spec]
    if text.endswith((".yaml", ".yml")) and WRITTEN.fullmatch(text) is None:
        return _from_yaml(Path(text).expanduser(), setting)
    head, colon, path = text.partition(":")
    name, equals, reader = head.partition("=")
    reader = reader if equals else head
    if not colon or not path:
        raise _unknown(text, setting)
    return [_checked({"name": name, "reader": reader, "path": path}, setting, setting)]


def _unknown(text: str, setting: str) -> UserError:
    folder = Path(text).expanduser()
    if not folder.exists():
        return UserError(f"{setting}: {text} is not READER:PATH, and no such file exists")
    there = what_is_there(folder) if folder.is_dir() else "no data set of a known format"
    return UserError(
        f"{setting}: {folder} holds {there}; {setting}=NAME:PATH insists on a format (docs/data.md)"
    )


def _from_yaml(file: Path, setting: str) -> list[DatasetSpec]:
    try:
        # `safe_load` makes plain values only; `load` could run code.
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{setting}: {file} cannot be read ({error})") from None
    if not isinstance(content, list):
        raise UserError(f"{setting}: {file} must hold a list of data sets")
    return [
        _from_mapping(entry, setting, str(file))
        if isinstance(entry, Mapping)
        else read_entry(entry, setting=setting)[0]
        for entry in content
    ]


def _from_mapping(entry: Mapping[Any, Any], setting: str, where: str) -> DatasetSpec:
    # A key without a value says nothing.
    values = {str(key): value for key, value in entry.items() if value is not None}
    if "reader" not in values:
        raise UserError(f"{where}: {values.get('name', 'a data set')} needs a reader")
    values.setdefault("name", values["reader"])
    return _checked(values, setting, f"{where}: {values['name']}")


_TEXTS = ("reader", "name", "path", "images", "annotations")


def _checked(values: Mapping[str, Any], setting: str, where: str) -> DatasetSpec:
    """Make a spec of an entry's values.

    Args:
        where: the setting or file, and the name of the data set, for messages.
    """
    texts = {name: _text(name, values[name], where) for name in _TEXTS if name in values}
    reader = texts["reader"]
    kind = None if reader == SHARDS else _kind(reader, setting)
    options = kind.options() if kind is not None else {}
    # Training has `data.masks_per_image` for that.
    limits = ("masks",) if setting == "eval.datasets" else ()
    if unknown := sorted(set(values) - {*_TEXTS, *limits, *options}):
        known = ", ".join(sorted({*_TEXTS, *limits, *options}))
        raise UserError(f"{where}: a data set of {reader} has no {unknown[0]}; it has {known}")
    # Reports are written to a folder of this name.
    if "/" in texts["name"] or not texts["name"]:
        raise UserError(f"{setting}: a data set cannot be called '{texts['name']}'")
    given = {
        name: _option(name, said, field.default, values[name], where)
        for name, (said, field) in options.items()
        if name in values
    }
    masks = _whole("masks", values["masks"], where) if "masks" in values else None
    if masks is not None and masks < 1:
        raise UserError(f"{setting}: masks={masks} of {texts['name']} must be at least 1")
    return DatasetSpec(
        setting=setting,
        format=None if kind is None else kind(**given),
        masks=masks,
        reader=reader,
        name=texts["name"],
        path=texts.get("path", ""),
        images=texts.get("images", ""),
        annotations=texts.get("annotations", ""),
    )


def _kind(reader: str, setting: str) -> type[Format]:
    known = formats()
    if reader not in known:
        raise UserError(f"{setting}: {other_kind(reader, [*known, SHARDS])}")
    return known[reader]


def _option(name: str, said: Option, default: Any, value: Any, where: str) -> Any:
    """Return an option's value as a person wrote it in an entry: YAML makes a number of 255."""
    # Before the text: "false" would be true as a text that is not empty.
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{where}: {name}={value} must be true or false")
        return value
    many = said.many and isinstance(value, Sequence) and not isinstance(value, str)
    read = [_parsed(name, said, each, where) for each in (value if many else [value])]
    found = tuple(read) if said.many else read[0]
    return found if said.entry is None else said.entry(found)


def _parsed(name: str, said: Option, value: Any, where: str) -> Any:
    try:
        found = said.parse(_text(name, value, where))
    except ValueError as error:
        raise UserError(f"{where}: {name}={value} {error}") from None
    if said.choices and found not in said.choices:
        listed = ", ".join(map(str, said.choices))
        raise UserError(f"{where}: {name}={value} must be {listed}")
    return found


def _text(name: str, value: Any, where: str) -> str:
    # YAML makes booleans of `no` and `on`, which may have been meant as names.
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: {name}={value} must be a text: put it in quotes")
    return str(value)


def _whole(name: str, value: Any, where: str) -> int:
    try:
        # Also "3" and 3.0, as YAML and command lines give them.
        if not isinstance(value, bool) and int(value) == float(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{where}: {name}={value} must be a whole number")


def list_records(spec: DatasetSpec) -> Listing:
    """List all that a data set holds (not for shards).

    Raises:
        UserError: a path is missing, or the files are not of the format.
    """
    assert spec.format is not None
    images, annotations = find_paths(spec)
    return spec.format.list(images, annotations)


def find_paths(spec: DatasetSpec) -> tuple[Path, Path]:
    """Return a data set's photos and annotations (not for shards).

    Raises:
        UserError: a path is missing.
    """
    assert spec.format is not None
    root = Path(spec.path).expanduser()
    # A JSON named as the path has its photos beside it.
    folder = root.parent if root.is_file() else root
    if not spec.images and not spec.annotations:
        part = chosen_part(spec.format.find_parts(root), spec.setting)
        if part is not None:
            if not spec.looked:
                log.info("%s: %s: its part %s is read", spec.setting, root, part.name)
            return part.images, part.annotations
    usual = usual_paths(type(spec.format), folder)
    images = _given(spec, spec.images) or usual[0]
    annotations = _given(spec, spec.annotations) or (root if root.is_file() else usual[1])
    if images is None:
        raise _not_below(spec, folder, "photos", spec.format.image_places)
    if annotations is None:
        raise _not_below(spec, folder, "annotations", spec.format.annotation_places)
    return images, annotations


def _given(spec: DatasetSpec, text: str) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser()
    return path if path.is_absolute() or not spec.path else Path(spec.path).expanduser() / path


def _not_below(spec: DatasetSpec, folder: Path, what: str, places: Sequence[str]) -> UserError:
    if not folder.exists():
        return UserError(f"{spec.setting}: {spec.name}: {folder} does not exist")
    expected = ", ".join(place or "the folder itself" for place in places)
    return UserError(
        f"{spec.setting}: {spec.name} has no {what} below {folder} (looked for {expected}); "
        "name them in a YAML entry (docs/datasets.md)"
    )
