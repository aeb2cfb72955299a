"""A photo with its masks: filled, outlined and numbered."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from sam_train.data.sample.decode import as_rle, open_entry, read_masks, to_picture
from sam_train.data.shards.part import Entry

OPACITY = 0.45
_GOLDEN = 0.618034
"""Steps of the golden ratio around the colour wheel: neighbours in number are far in hue."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn sample."""

    photo: Image.Image
    masks: Image.Image
    """The photo with its masks on it."""
    caption: str
    """`12 masks, 640 x 480`."""


def draw_picture(jpeg: bytes, text: bytes, *, side: int, numbers: bool) -> Picture:
    """Draw a sample at most `side` pixels long; larger masks lie below smaller ones.

    Args:
        numbers: write the number of its annotation on each mask.

    Raises:
        BadSample: the photo or the JSON cannot be used. Invalid masks are left out and counted.
    """
    return draw_entry(Entry(jpeg=jpeg, json=text), side=side, numbers=numbers)


def draw_entry(entry: Entry, *, side: int, numbers: bool, enlarge: bool = False) -> Picture:
    """Draw a sample as it was read, see `draw_picture`; of many bands the first three.

    Args:
        enlarge: make smaller photos that long, too.
    """
    stored = open_entry(entry)
    width, height = stored.width, stored.height
    masks = read_masks(entry.json, height=height, width=width)
    photo = to_picture(stored)
    scale = side / max(width, height)
    if not enlarge:
        scale = min(1.0, scale)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    # A box averages all pixels that it shrinks; enlarged pixels stay squares to look at.
    photo = photo.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
    # Only what has been checked goes to pycocotools, which trusts its input.
    usable = np.flatnonzero((masks.runs.status == 0) & (masks.runs.areas > 0))
    painted = np.asarray(photo, dtype=np.float32)
    labels: list[tuple[int, int, int]] = []
    # Stable, so that equal areas keep the order of the file.
    for k in usable[np.argsort(-masks.runs.areas[usable], kind="stable")].tolist():
        whole = coco_mask.decode(as_rle(masks, k, height=height, width=width))
        mask = _sampled(whole, size)
        if not mask.any():
            continue
        painted = _painted(painted, mask, colour(k))
        labels.append((k, *_inside(mask)))
    result = Image.fromarray(painted.round().astype(np.uint8))
    if numbers:
        _write_numbers(result, labels)
    bad = len(masks.runs.status) - len(usable)
    caption = f"{len(usable)} mask{'' if len(usable) == 1 else 's'}, {width} x {height}"
    return Picture(photo, result, f"{caption}, {bad} unusable" if bad else caption)


def colour(number: int) -> tuple[float, float, float]:
    """Return red, green and blue of mask `number`, 0 to 255."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.85, 1.0)
    return 255 * red, 255 * green, 255 * blue


def _sampled(mask: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Sample the mask at the pixel centres of the smaller picture: bool [height, width]."""
    height, width = mask.shape
    rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(np.int64)
    columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(np.int64)
    sampled: npt.NDArray[np.bool_] = mask[rows][:, columns].astype(bool)
    return sampled


def _painted(
    image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], rgb: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    image = image.copy() if not image.flags.writeable else image
    paint = np.array(rgb, dtype=np.float32)
    image[mask] += OPACITY * (paint - image[mask])
    image[_outline(mask)] = paint
    return image


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mark pixels of the mask with a neighbour outside it; the picture's border is no outside."""
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _inside(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Find (x, y) of the mask's pixel that is nearest to its middle."""
    y, x = np.nonzero(mask)
    # The middle itself may lie in a hole or beside a bent mask.
    nearest = int(np.argmin((x - x.mean()) ** 2 + (y - y.mean()) ** 2))
    return int(x[nearest]), int(y[nearest])


def _write_numbers(picture: Image.Image, labels: list[tuple[int, int, int]]) -> None:
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(10, max(picture.size) // 75))
    for number, x, y in labels:
        pen.text(
            (x, y), str(number), fill="white", font=font, anchor="mm",
            stroke_width=2, stroke_fill="black",
        )  # fmt: skip
