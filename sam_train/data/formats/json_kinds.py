"""Names for annotation files that are not what a reader takes: LabelMe, VIA, results, captions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

AS_COCO = "export as COCO"

_LISTS: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"image_id", "score"}),
        "a list of COCO results: masks for photos that another file lists; `evaluate` takes it as "
        "instances.results or proposals.results",
    ),
    (frozenset({"image_id", "segmentation"}), "a list of annotations without `images`"),
    (frozenset({"image_id", "bbox"}), "a list of annotations without `images`"),
    (frozenset({"data", "annotations"}), f"Label Studio's own JSON: {AS_COCO} there"),
    (frozenset({"data", "completions"}), f"Label Studio's own JSON: {AS_COCO} there"),
    (frozenset({"data", "predictions"}), f"Label Studio's own JSON: {AS_COCO} there"),
    (frozenset({"data_row"}), f"Labelbox's own JSON: {AS_COCO} there"),
    (frozenset({"Labeled Data"}), f"Labelbox's own JSON: {AS_COCO} there"),
    (frozenset({"image", "annotations"}), f"CreateML's JSON, which has boxes only: {AS_COCO}"),
    (frozenset({"name", "labels"}), f"BDD100K's or Scalabel's JSON: {AS_COCO} there"),
    (frozenset({"images", "annotations"}), "a list of COCO files: name one file a run"),
    (frozenset({"file_name", "annotations"}), "Detectron2's list of dicts: save it as COCO"),
    (frozenset({"filename", "ann"}), f"MMDetection's own JSON: {AS_COCO}"),
)
_OBJECTS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"shapes", "imagePath"}), "LabelMe's JSON of one photo: `labelme` reads its folder"),
    (frozenset({"_via_img_metadata"}), f"VIA's project file: {AS_COCO} there"),
    (frozenset({"image", "annotations"}), "SA-1B's JSON of one photo: `sa1b` reads its folder"),
    (frozenset({"videos", "annotations"}), "a video data set's JSON (YouTube-VIS): its `images`"),
    (frozenset({"items", "categories"}), f"Datumaro's JSON: {AS_COCO} there"),
    (frozenset({"item", "annotations"}), f"V7 Darwin's JSON of one photo: {AS_COCO} there"),
    (frozenset({"objects", "size"}), f"Supervisely's JSON of one photo: {AS_COCO} there"),
    (frozenset({"metadata", "instances"}), f"SuperAnnotate's JSON: {AS_COCO} there"),
    (frozenset({"type", "features"}), "GeoJSON, in coordinates of a map: no photo's pixels"),
    (frozenset({"samples"}), f"FiftyOne's JSON: {AS_COCO} there"),
    (frozenset({"size", "counts"}), "the run lengths of one mask"),
)


def first_keys(path: Path) -> set[str]:
    """Return the names of a JSON file's outermost values; none where it is no such file."""
    try:
        return set(msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw]))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()


def is_runs_by_image(path: Path) -> bool:
    """Tell whether a JSON file gives run lengths by the names of images."""
    try:
        return "run lengths" in (kind_of(path.read_bytes()) or "")
    except OSError:
        return False


def kind_of(text: bytes) -> str | None:
    """Name the format of a valid JSON that is no COCO instances file, as far as it is known.

    Args:
        text: UTF-8 JSON.

    Returns:
        A phrase that completes "this is ...", with the way out; None where it is not known.
    """
    try:
        found = msgspec.json.decode(text, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
        if isinstance(found, list):
            return _list_kind(found)
        return _object_kind(found)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _list_kind(items: list[msgspec.Raw]) -> str | None:
    if not items:
        return "an empty list"
    first = _content(items[0])
    if not isinstance(first, Mapping):
        return "a list of something else than objects"
    return _first(_LISTS, first) or f"a list of objects with {_keys(first)}"


def _object_kind(content: dict[str, msgspec.Raw]) -> str | None:
    if "images" in content and "annotations" in content:
        return _coco_kind(content)
    if "images" in content:
        return "a COCO file without `annotations` (a test set's list of images)"
    if known := _first(_OBJECTS, content):
        return known
    # Three are enough to name a format, however long the file.
    values = [_content(value) for _, value in zip(range(3), content.values(), strict=False)]
    if values and all(isinstance(v, Mapping) and "regions" in v for v in values):
        return f"VIA's JSON: {AS_COCO} there"
    if values and all(isinstance(v, Mapping) and {"size", "counts"} <= v.keys() for v in values):
        return "run lengths by image: `convert rle` reads it"
    return f"an object with {_keys(content)}" if content else "an empty object"


def _coco_kind(content: Mapping[str, msgspec.Raw]) -> str | None:
    items = _content(content["annotations"], list[msgspec.Raw])
    first = _content(items[0]) if items else None
    if not isinstance(first, Mapping):
        return None
    # Panoptic and caption files have the outer form of instances.
    if "segments_info" in first:
        return (
            "COCO panoptic, whose masks are PNGs: `convert masks --masks FOLDER_OF_PNGS` reads "
            "those, a mask for each colour"
        )
    if "caption" in first:
        return "COCO captions, which have no masks: take the instances file"
    return None


def _first(known: tuple[tuple[frozenset[str], str], ...], keys: Any) -> str | None:
    # The first entry whose keys are all there: more particular ones stand before others.
    return next((name for needed, name in known if needed <= set(keys)), None)


def _keys(content: Mapping[str, Any]) -> str:
    shown = [f"`{key[:30]}`" for _, key in zip(range(4), content, strict=False)]
    return ", ".join(shown) + (", ..." if len(content) > len(shown) else "")


def _content(raw: msgspec.Raw, form: Callable[..., Any] | Any = Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
