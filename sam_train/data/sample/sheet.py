"""A contact sheet: samples with their masks in rows, each on its caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sam_train.data.sample.decode import BadSample
from sam_train.data.sample.draw import draw_entry
from sam_train.data.shards.reader import Shards

_GAP = 6
_CAPTION = 18
_BACKGROUND = (24, 24, 28)
_BAD = (64, 32, 32)


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture of the sheet."""

    picture: Image.Image
    caption: str


def tile_of(shards: Shards, sample: int, *, side: int, enlarge: bool = False) -> Tile:
    """Draw a sample with its masks; one that cannot be read says why.

    Args:
        side: longest side of the photo in pixels.
        enlarge: make smaller photos that long, too.
    """
    name = shards.key(sample).rpartition("/")[2]
    try:
        drawn = draw_entry(shards.read(sample), side=side, numbers=False, enlarge=enlarge)
    except (BadSample, OSError) as error:
        blank = Image.new("RGB", (side, side * 3 // 4), _BAD)
        text = "\n".join(_wrapped(str(error), width=side // 8))
        ImageDraw.Draw(blank).multiline_text((8, 8), text, fill="white", font=_font())
        return Tile(blank, f"{name}: unusable")
    return Tile(drawn.masks, f"{name}: {drawn.caption}")


def arranged(tiles: Sequence[Tile], *, columns: int) -> Image.Image:
    """Arrange the tiles in rows, each on its caption."""
    width = max(tile.picture.width for tile in tiles)
    rows = [tiles[k : k + columns] for k in range(0, len(tiles), columns)]
    heights = [max(tile.picture.height for tile in row) + _CAPTION for row in rows]
    canvas = Image.new(
        "RGB",
        (len(rows[0]) * (width + _GAP) + _GAP, sum(heights) + _GAP * (len(rows) + 1)),
        _BACKGROUND,
    )
    pen = ImageDraw.Draw(canvas)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = _GAP + column * (width + _GAP)
            # At the bottom of the cell, so that it stands on its caption.
            lowest = top + height - _CAPTION - tile.picture.height
            canvas.paste(tile.picture, (left + (width - tile.picture.width) // 2, lowest))
            caption = tile.caption
            while caption and pen.textlength(caption, font=_font()) > width:
                caption = caption[:-1]
            pen.text((left, top + height - _CAPTION + 2), caption, fill="#dddddd", font=_font())
        top += height + _GAP
    return canvas


def _wrapped(text: str, *, width: int) -> list[str]:
    return [text[k : k + width] for k in range(0, min(len(text), 6 * width), width)]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)
