"""What a person writes about a data set -> its reader and its paths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import ListConfig, OmegaConf

from sam_train.data.formats.ade20k import list_ade20k
from sam_train.data.formats.bbbc038 import list_bbbc038
from sam_train.data.formats.bsds import list_bsds
from sam_train.data.formats.cityscapes import list_cityscapes
from sam_train.data.formats.coco import list_coco
from sam_train.data.formats.lvis import list_lvis
from sam_train.data.formats.mask_rules import LAYOUTS
from sam_train.data.formats.masks import list_masks
from sam_train.data.formats.records import Listing
from sam_train.data.formats.rle import list_rle
from sam_train.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """One entry of `eval.datasets`."""

    name: str
    reader: str
    """One of READERS."""
    path: str = ""
    """The data set's folder (of shards: any pattern that data.val takes)."""
    images: str = ""
    """The photos, where they do not lie as the reader expects below `path`."""
    annotations: str = ""
    """The JSON, or the folder of masks or ground truths, likewise."""
    layout: str = "auto"
    """masks: labels or binary, as `data_tools.convert masks --layout`."""
    suffix: str = ""
    """masks: as `--mask-suffix`."""
    ignore: tuple[int, ...] = (0,)
    """masks: label values that are no mask; 0 alone: as `data_tools.convert masks` without
    `--ignore`, so neither are negative numbers, nor 255 around classes."""
    masks: int | None = None
    """Masks to take, in place of eval.masks."""

    @property
    def digest(self) -> str:
        """Of what decides which files are read and how."""
        read = [getattr(self, f.name) for f in fields(self) if f.name not in ("name", "masks")]
        return hashlib.blake2b(repr(read).encode(), digest_size=3).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A kind of source."""

    summary: str
    """What lies below `path`."""
    images: tuple[str, ...]
    """Where the photos may lie below `path`; the first that exists counts, so a folder stands
    before the one it lies in. "" is path itself."""
    annotations: tuple[str, ...]
    """The same for annotations; globs."""
    list: Callable[[DatasetSpec, Path, Path], Listing]
    """Of photos and annotations."""


def _ade20k(spec: DatasetSpec, images: Path, annotations: Path) -> Listing:
    # The full data set has its PNGs beside the photos.
    return list_ade20k(images, masks=None if annotations == images else annotations)


def _masks(spec: DatasetSpec, images: Path, annotations: Path) -> Listing:
    ignore = None if spec.ignore == (0,) else spec.ignore
    return list_masks(images, annotations, layout=spec.layout, suffix=spec.suffix, ignore=ignore)


SHARDS = "shards"

READERS: dict[str, Reader] = {
    "coco": Reader(
        summary="a COCO instances JSON and its photos",
        images=("images/val2017", "images", "val2017", ""),
        annotations=(
            "annotations/instances_val2017.json",
            "instances*.json",
            "annotations/instances*.json",
            "*.json",
            "annotations/*.json",
        ),
        list=lambda spec, images, annotations: list_coco(images, annotations),
    ),
    "lvis": Reader(
        summary="an LVIS JSON and COCO's photos",
        images=("images", ""),
        annotations=("lvis_v1_val.json", "annotations/lvis_v1_val.json", "*lvis*val*.json"),
        list=lambda spec, images, annotations: list_lvis(images, annotations),
    ),
    "ade20k": Reader(
        summary="ADE20K in full (PNGs beside the photos), or SceneParsing's images and annotations",
        images=("images/ADE/validation", "images/validation", "images/ADE", "images", ""),
        annotations=(
            "annotations/validation",
            "annotations",
            "images/ADE/validation",
            "images/ADE",
            "images",
            "",
        ),
        list=_ade20k,
    ),
    "cityscapes": Reader(
        summary="leftImg8bit/val and gtFine/val",
        images=("leftImg8bit/val", "leftImg8bit"),
        annotations=("gtFine/val", "gtFine"),
        list=lambda spec, images, annotations: list_cityscapes(images, annotations),
    ),
    "bbbc038": Reader(
        summary="BBBC038v1's stage1_train: a folder per image with images/ and masks/",
        images=("stage1_train", ""),
        annotations=("stage1_train", ""),
        list=lambda spec, images, annotations: list_bbbc038(images),
    ),
    "bsds": Reader(
        summary="BSDS500's images and groundTruth (.mat)",
        images=("images/val", "data/images/val", "BSDS500/data/images/val", "images"),
        annotations=(
            "groundTruth/val",
            "data/groundTruth/val",
            "BSDS500/data/groundTruth/val",
            "groundTruth",
        ),
        list=lambda spec, images, annotations: list_bsds(images, annotations),
    ),
    "masks": Reader(
        summary="photos and mask files: label maps or one file per mask, by any usual name",
        images=("images", ""),
        annotations=("masks", "labels", "annotations", ""),
        list=_masks,
    ),
    "rle": Reader(
        summary='photos and a JSON {image: {"size": [h, w], "counts": [RLE, ...]}}',
        images=("images", ""),
        annotations=("masks_rle.json", "*rle*.json", "*.json"),
        list=lambda spec, images, annotations: list_rle(images, annotations),
    ),
}
"""All but `shards`, which has no listing of this kind."""


def read_specs(datasets: Any) -> list[DatasetSpec]:
    """The data sets of `eval.datasets`, in order, names made unique.

    Raises:
        UserError: nothing is given, or an entry cannot be read.
    """
    if isinstance(datasets, ListConfig):
        datasets = OmegaConf.to_container(datasets, resolve=True)
    entries = [datasets] if isinstance(datasets, str | Mapping) else list(datasets or [])
    specs = [spec for entry in entries if entry for spec in _read(entry)]
    if not specs:
        raise UserError(
            "eval.datasets is not set: name data sets with masks, such as "
            "eval.datasets=[coco:/data/coco,shards:/data/sa1b] (docs/datasets.md)"
        )
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"eval.datasets: two are called {name}; write NAME={name}:PATH for one of them"
            )
    return specs


def _read(entry: Any) -> Sequence[DatasetSpec]:
    if isinstance(entry, Mapping):
        return [_from_mapping(entry, "eval.datasets")]
    text = str(entry)
    if text.endswith((".yaml", ".yml")):
        return _from_yaml(Path(text).expanduser())
    head, colon, path = text.partition(":")
    name, equals, reader = head.partition("=")
    reader = reader if equals else head
    if not colon or not path:
        raise UserError(f"eval.datasets: {text} is not READER:PATH or NAME=READER:PATH")
    return [_checked(DatasetSpec(name=name, reader=reader, path=path))]


def _from_yaml(file: Path) -> list[DatasetSpec]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"eval.datasets: {file} cannot be read ({error})") from None
    if not isinstance(content, list):
        raise UserError(f"eval.datasets: {file} must hold a list of data sets")
    return [
        _from_mapping(entry, str(file)) if isinstance(entry, Mapping) else _read(entry)[0]
        for entry in content
    ]


def _from_mapping(entry: Mapping[Any, Any], where: str) -> DatasetSpec:
    # A key without a value says nothing.
    values = {str(key): value for key, value in entry.items() if value is not None}
    known = {f.name for f in fields(DatasetSpec)}
    if unknown := sorted(set(values) - known):
        raise UserError(
            f"{where}: a data set has no {unknown[0]}; it has {', '.join(sorted(known))}"
        )
    if "reader" not in values:
        raise UserError(f"{where}: {values.get('name', 'a data set')} needs a reader")
    values.setdefault("name", values["reader"])
    where = f"{where}: {values['name']}"
    return _checked(DatasetSpec(**{n: _value(n, v, where) for n, v in values.items()}))


def _value(name: str, value: Any, where: str) -> Any:
    """What a person wrote, as the field has it: YAML makes a number of `name: 2018`."""
    if name == "ignore":
        labels = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(_whole(name, label, where) for label in labels)
    if name == "masks":
        return _whole(name, value, where)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: {name}={value} must be a text: put it in quotes")
    return str(value)


def _whole(name: str, value: Any, where: str) -> int:
    try:
        if not isinstance(value, bool) and int(value) == float(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{where}: {name}={value} must be a whole number")


def _checked(spec: DatasetSpec) -> DatasetSpec:
    readers = [*READERS, SHARDS]
    if spec.reader not in readers:
        raise UserError(
            f"eval.datasets: there is no reader {spec.reader}: use {', '.join(readers)} "
            "(docs/datasets.md says which for which data set)"
        )
    if "/" in spec.name or not spec.name:
        raise UserError(f"eval.datasets: a data set cannot be called '{spec.name}'")
    if spec.layout not in LAYOUTS:
        raise UserError(f"eval.datasets: layout={spec.layout} must be {', '.join(LAYOUTS)}")
    if spec.masks is not None and spec.masks < 1:
        raise UserError(f"eval.datasets: masks={spec.masks} of {spec.name} must be at least 1")
    return spec


def list_records(spec: DatasetSpec) -> Listing:
    """Everything that a spec's reader lists (not for shards).

    Raises:
        UserError: a path is missing, or the files are not what the reader takes.
    """
    images, annotations = find_paths(spec)
    return READERS[spec.reader].list(spec, images, annotations)


def find_paths(spec: DatasetSpec) -> tuple[Path, Path]:
    """A spec's photos and annotations (not for shards).

    Raises:
        UserError: a path is missing.
    """
    reader = READERS[spec.reader]
    images = _find(spec, spec.images, reader.images, what="photos")
    annotations = _find(spec, spec.annotations, reader.annotations, what="annotations")
    return images, annotations


def _find(spec: DatasetSpec, given: str, places: tuple[str, ...], *, what: str) -> Path:
    """The path that is given, else the first place below `path` that exists."""
    root = Path(spec.path).expanduser()
    if given:
        path = Path(given).expanduser()
        return path if path.is_absolute() or not spec.path else root / path
    if root.is_file() and what == "annotations":
        return root
    # A JSON named as the path has its photos beside it.
    folder = root.parent if root.is_file() else root
    for place in places:
        if place == "":
            if folder.is_dir():
                return folder
            continue
        for found in sorted(folder.glob(place)):
            return found
    expected = ", ".join(place or "the folder itself" for place in places)
    raise UserError(
        f"eval.datasets: {spec.name} has no {what} below {folder} (looked for {expected}); "
        f"name them in a YAML entry (docs/datasets.md)"
    )
