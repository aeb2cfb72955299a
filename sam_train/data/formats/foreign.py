"""Names for files that no reader of masks takes, and the way from them to one that does."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

OTHER_KINDS = {
    "labelstudio": "labelstudio: export as COCO there, then `convert coco`",
    "roboflow": "roboflow: its COCO export is coco, its YOLO export yolo, its SAM 2 export sa1b",
    "supervisely": "supervisely: export as COCO there, then `convert coco`",
    "via": "via: export as COCO there, then `convert coco`",
    "panoptic": "panoptic: `convert masks` reads the PNGs, a mask for each colour",
    "davis": "davis: `convert masks` reads Annotations, one object per colour of the palette",
}
"""Kinds that people ask for by name, and the way there."""

_ALIASES = {
    "yolov5": "yolo", "yolov8": "yolo", "yolov11": "yolo", "yolo-seg": "yolo",
    "ultralytics": "yolo", "coco8": "yolo", "coco8-seg": "yolo",
    "pascal": "voc", "pascal_voc": "voc", "pascalvoc": "voc", "voc2012": "voc",
    "sa-1b": "sa1b", "sa_1b": "sa1b", "sam": "sa1b", "sam2": "sa1b",
    "huggingface": "hf", "datasets": "hf", "arrow": "hf", "parquet": "hf",
    "label-studio": "labelstudio", "label_studio": "labelstudio", "vgg": "via",
    "coco_panoptic": "panoptic", "coco-panoptic": "panoptic",
}  # fmt: skip

_YOLO = re.compile(rb"\s*\d+(?:\s+-?[\d.]+(?:[eE][+-]?\d+)?){4,}\s*(?:\n|\Z)")
_READ = 1 << 16


def other_kind(kind: str, kinds: list[str]) -> str:
    """Say in one line that there is no such kind, which there are, and the way where one is known.

    Args:
        kind: what was asked for.
        kinds: those there are.
    """
    name = kind.lower().removesuffix(".json")
    name = _ALIASES.get(name, name)
    listed = ", ".join(kinds)
    if name in kinds:
        return f"there is no kind {kind}; write it as {name}"
    if name in OTHER_KINDS:
        return f"there is no kind {kind} (there are {listed}). {OTHER_KINDS[name]}"
    # The default cutoff: a word that is far from all kinds gets no guess.
    near = "".join(f" (did you mean {each}?)" for each in get_close_matches(name, kinds, n=1))
    ways = ", ".join(sorted(OTHER_KINDS))
    said = f"there is no kind {kind}{near}: use one of {listed}"
    return f"{said}. For {ways}, name it and the way is said"


def describe(path: Path) -> str:
    """Name a file that no reader of masks takes, as the reason why it is left out."""
    suffix = path.suffix.lower()
    if suffix in _DESCRIBED:
        return _DESCRIBED[suffix]
    try:
        with path.open("rb") as stream:
            return _by_content(path, suffix, stream.read(_READ))
    except OSError:
        return "unreadable file"


def _by_content(path: Path, suffix: str, start: bytes) -> str:
    if suffix in (".json", ".geojson"):
        return _json(path, start)
    if suffix == ".xml":
        cvat = b"<annotations" in start[:2000]
        way_out = "CVAT's XML, not read here: `convert cvat --annotations FILE`"
        return way_out if cvat else "XML of boxes (VOC), not read: it has no masks"
    if suffix == ".txt" and _YOLO.match(start):
        return "YOLO's text file, not read here: `convert yolo`"
    return f"{suffix} file, not read" if suffix else "file without an ending, not read"


_DESCRIBED = {
    ".mat": "MATLAB file, not read (`convert bsds` reads BSDS500's)",
    ".nii": "NIfTI volume, not read: save its slices as TIF or npy",
    ".gz": "compressed file, not read: unpack it",
    ".zip": "archive, not read: unpack it",
    ".tar": "archive, not read: unpack it",
    ".dcm": "DICOM file, not read: save it as TIF or npy",
    ".h5": "HDF5 file, not read: save its masks as TIF or npy",
    ".hdf5": "HDF5 file, not read: save its masks as TIF or npy",
    ".svg": "SVG drawing, not read: save it as PNG",
    ".roi": "ImageJ's region, not read: save a label map as TIF",
    ".shp": "shapes of a map, not read: rasterise them to a TIF of labels",
}


def _json(path: Path, start: bytes) -> str:
    try:
        # Beyond 16 MiB the first bytes have to do: this is for a message only.
        found = json.loads(path.read_bytes()) if path.stat().st_size < 1 << 24 else None
    except (OSError, ValueError, RecursionError):
        found = None
    content: dict[str, Any] = found if isinstance(found, dict) else {}
    keys = set(content)
    if {"shapes", "imagePath"} <= keys or b'"imagePath"' in start:
        return "LabelMe's JSON, not read here: `convert labelme`"
    if {"images", "annotations"} <= keys:
        return "COCO JSON, not read here: `convert coco --annotations FILE`"
    if {"image", "annotations"} <= keys:
        return "SA-1B's JSON, not read here: `convert sa1b`"
    if keys and all(isinstance(v, dict) and {"size", "counts"} <= set(v) for v in content.values()):
        return "JSON of run lengths, not read here: `convert rle --masks FILE`"
    return "JSON file, not read"
