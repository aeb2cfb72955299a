"""Edge maps of any program and BSDS ground truth, read as the official program reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat

from sam_train.errors import UserError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An image of the benchmark."""

    name: str
    """The file name without its ending; the same in both folders."""
    edges: Path
    truth: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryMaps:
    """An image's boundary maps, not yet thinned."""

    thresholds: npt.NDArray[np.float64]
    """float64 [T], ascending; 1 to T where a file holds T segmentations."""
    masks: list[Mask]
    """T times bool [H, W]."""


def pair_files(maps: Path, ground_truth: Path) -> list[Pair]:
    """Pair every ground truth with its map, sorted by name.

    A `.mat` goes before a `.png`, as in the official program.

    Raises:
        UserError: a folder is missing or holds no ground truth, or a map is missing.
    """
    for folder, option in ((maps, "edges.maps"), (ground_truth, "edges.ground_truth")):
        if not folder.is_dir():
            raise UserError(f"{option}={folder} is not a folder")
    # Of two files of one name the later, the .mat, stays.
    found = {path.stem: path for end in ("png", "mat") for path in maps.glob(f"*.{end}")}
    truths = sorted(ground_truth.glob("*.mat"))
    if not truths:
        raise UserError(f"edges.ground_truth={ground_truth} holds no .mat files of BSDS")
    missing = [path.stem for path in truths if path.stem not in found]
    if missing:
        raise UserError(
            f"edges.maps={maps} has no .png or .mat for {len(missing)} of {len(truths)} ground "
            f"truths, {', '.join(missing[:3])} among them; add them or take away the ground truths"
        )
    return [Pair(name=path.stem, edges=found[path.stem], truth=path) for path in truths]


def thresholds_between(count: int) -> npt.NDArray[np.float64]:
    """Return `count` thresholds evenly between 0 and 1, both left out: float64 [count]."""
    # In the order of MATLAB's linspace, whose rounding decides on which side k/255 falls.
    first, last = 1 / (count + 1), 1 - 1 / (count + 1)
    if count == 1:
        return np.array([last])
    values = first + np.arange(count) * (last - first) / (count - 1)
    values[-1] = last
    return values


def read_boundary_maps(path: Path, *, thresholds: int) -> BoundaryMaps:
    """Read the boundary maps of one image.

    Args:
        path: a `.png` (grey; 8 or 16 bits) or a `.mat` that holds `ucm2` (float [2H+1, 2W+1], the
            odd pixels count) or `segs` (a cell of T label maps [H, W]).
        thresholds: their number, for all but `segs`.

    Raises:
        UserError: the file is none of these.
    """
    if path.suffix == ".png":
        probability = read_grey(path)
    else:
        content = read_mat(path)
        if "ucm2" in content:
            probability = _odd_pixels(content["ucm2"], path)
        elif "segs" in content:
            segs = [np.asarray(labels) for labels in np.ravel(content["segs"])]
            return BoundaryMaps(
                thresholds=np.arange(1, len(segs) + 1, dtype=np.float64),
                masks=[segmentation_boundaries(labels) for labels in segs],
            )
        else:
            raise UserError(f"{path} holds neither ucm2 nor segs; save one of them, or a grey PNG")
    if not np.isfinite(probability).all():
        raise UserError(f"{path} holds values that are not finite; edge maps lie in [0, 1]")
    values = thresholds_between(thresholds)
    return BoundaryMaps(thresholds=values, masks=[probability >= value for value in values])


def read_grey(path: Path) -> npt.NDArray[np.float64]:
    """Read a grey picture as float64 [H, W] in [0, 1], divided by 255 or, at 16 bits, 65535.

    Grey saved as colour is accepted, and an alpha channel is left out.

    Raises:
        UserError: it cannot be read, or its colours are no greys.
    """
    try:
        with Image.open(path) as image:
            image.load()
            # Modes I and I;16, in which PIL opens 16-bit PNG.
            if image.mode.startswith("I"):
                return np.asarray(image, dtype=np.float64) / 65535
            if image.mode in {"1", "L"}:
                return np.asarray(image.convert("L"), dtype=np.float64) / 255
            colours = np.asarray(image.convert("RGBA").convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error})") from error
    if not (colours == colours[..., :1]).all():
        raise UserError(f"{path} is a colour picture; an edge map is grey, 255 where an edge is")
    return colours[..., 0].astype(np.float64) / 255


def read_mat(path: Path) -> dict[str, Any]:
    """Read the variables of a MATLAB file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return dict(loadmat(path))
    except NotImplementedError as error:
        raise UserError(f"{path} is a MATLAB 7.3 file; save it with -v7") from error
    except Exception as error:  # scipy raises whatever a damaged file leads it to
        raise UserError(f"{path} cannot be read as a MATLAB file ({error})") from error


def read_ground_truth(path: Path) -> list[Mask]:
    """Read the boundaries that each person drew: bool [H, W] each, one size.

    Raises:
        UserError: not a BSDS ground truth.
    """
    content = read_mat(path)
    try:
        people = [person["Boundaries"][0, 0] for person in np.ravel(content["groundTruth"])]
        drawn = [np.asarray(person) != 0 for person in people]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no BSDS ground truth: it lacks groundTruth.Boundaries") from (
            error
        )
    if not drawn or drawn[0].ndim != 2 or any(mask.shape != drawn[0].shape for mask in drawn):
        raise UserError(f"{path}: the boundaries are missing or differ in size")
    return drawn


def segmentation_boundaries(labels: npt.NDArray[Any]) -> Mask:
    """Draw the edges of a label map [H, W] as the benchmark does: bool [H, W].

    By the benchmark's `seg2bdry` a pixel is an edge where any crack between labels meets its lower
    right corner. On the last row and column only cracks that run into the border count, and the
    last pixel never is an edge.
    """
    height, width = labels.shape
    down = np.zeros((height, width), dtype=np.bool_)
    right = np.zeros((height, width), dtype=np.bool_)
    down[:-1] = labels[:-1] != labels[1:]
    right[:, :-1] = labels[:, :-1] != labels[:, 1:]
    # The cracks at a pixel's lower right corner: below and right of it, and their continuations.
    corner = down | right
    corner[:-1] |= right[1:]
    corner[:, :-1] |= down[:, 1:]
    corner[-1] = right[-1]
    corner[:, -1] = down[:, -1]
    corner[-1, -1] = False
    return corner


def _odd_pixels(ucm2: npt.NDArray[Any], path: Path) -> npt.NDArray[np.float64]:
    """Return the image's own pixels of a contour map at double resolution."""
    if ucm2.ndim != 2 or not all(side % 2 for side in ucm2.shape) or min(ucm2.shape) < 3:
        raise UserError(f"{path}: ucm2 is {ucm2.shape}, not (2 * height + 1, 2 * width + 1)")
    # From 2 on, where MATLAB's ucm2(3:2:end, 3:2:end) begins.
    return np.asarray(ucm2[2::2, 2::2], dtype=np.float64)
