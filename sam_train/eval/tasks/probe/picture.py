"""Queries and their nearest neighbours: a row of cut-out masks for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from sam_train.eval.tasks.probe.embed import Crop

_CELL = 132
_TEXT = 13
_GAP = 6
_MARGIN = 14
_BESIDE_QUERY = 18
_INK, _FAINT, _LINE = (40, 44, 52), (110, 116, 126), (255, 170, 0)
_PAPER = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A drawn mask and the text below it."""

    crop: Crop
    text: str
    """The mask's similarity and group."""


def draw_neighbours(rows: Sequence[Sequence[Cell]], out: Path, *, title: str) -> None:
    """Draw a row for each query, which is the first cell.

    Args:
        rows: at least one, of at least one cell.
        out: the PNG to write.
    """
    longest = max(map(len, rows))
    head = 2 * _MARGIN + _TEXT
    height = _CELL + _TEXT + 2 * _GAP
    width = 2 * _MARGIN + _BESIDE_QUERY + longest * (_CELL + _GAP) - _GAP
    sheet = Image.new("RGB", (width, head + len(rows) * height + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    bold, small = ImageFont.load_default(_TEXT + 1), ImageFont.load_default(_TEXT)
    pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=bold)
    for row, cells in enumerate(rows):
        y = head + row * height
        for column, cell in enumerate(cells):
            x = _MARGIN + column * (_CELL + _GAP) + (_BESIDE_QUERY if column else 0)
            picture = _drawn(cell.crop)
            left, top = (_CELL - picture.width) // 2, (_CELL - picture.height) // 2
            sheet.paste(picture, (x + left, y + top))
            text = cell.text
            # Names of groups may be longer than a cell is wide.
            while text and pen.textlength(text, font=small) > _CELL:
                text = text[:-1]
            colour = _FAINT if column else _INK
            pen.text((x + _CELL // 2, y + _CELL + 2), text, fill=colour, font=small, anchor="ma")
        line = _MARGIN + _CELL + (_BESIDE_QUERY + _GAP) // 2
        pen.line((line, y, line, y + _CELL), fill=_FAINT)
    sheet.save(out)


def _drawn(crop: Crop) -> Image.Image:
    """Draw the crop with the mask's edge, and pale outside it."""
    scale = _CELL / max(crop.mask.shape)
    size = max(1, round(crop.mask.shape[1] * scale)), max(1, round(crop.mask.shape[0] * scale))
    pixels = np.asarray(Image.fromarray(crop.image[..., :3]).resize(size, Image.Resampling.BICUBIC))
    grey = Image.fromarray(crop.mask.astype(np.uint8) * 255)
    mask = np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) > 127
    faded = pixels * 0.35 + 255 * 0.65
    shown = np.where(mask[..., None], pixels, faded).astype(np.uint8)
    edge = mask & ~ndimage.binary_erosion(mask, iterations=2, border_value=0)
    shown[edge] = _LINE
    return Image.fromarray(shown)
