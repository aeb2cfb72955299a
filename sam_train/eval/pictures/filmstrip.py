"""Pictures of a model at work: image, truth, and round by round the prompts with the mask."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sam_train.eval.pictures.zoom import View, closer

CELL = 224
"""Longest side of a drawn photo or of the part in view, in pixels of the picture."""
_FINE = 3  # Drawn this much larger and scaled down: PIL draws edges without anti-aliasing.
_GAP = 8
_TEXT = 15
_MARGIN = 14

_PAPER = (255, 255, 255)
_INK = (40, 44, 52)
_FAINT = (110, 116, 126)
_MASK = (30, 136, 255)
_TRUTH = (255, 170, 0)
GREEN = (22, 190, 72)
RED = (235, 40, 52)
_BOX = (22, 190, 72)

Pixels = npt.NDArray[np.uint8]
BoolMask = npt.NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class Mark:
    """A click, as pixel indices of the row's image."""

    x: float
    y: float
    foreground: bool
    new: bool = True
    """True for a click of this round, which is drawn larger than earlier ones."""


@dataclass(slots=True, kw_only=True)
class Frame:
    """A round of one mask."""

    mask: BoolMask
    """[h, w], the frame of the row's image."""
    iou: float
    predicted_iou: float | None = None
    clicks: list[Mark] = field(default_factory=list)
    """The clicks given so far."""
    box: tuple[float, float, float, float] | None = None
    """x0 y0 x1 y1, pixel indices, inclusive."""


@dataclass(slots=True, kw_only=True)
class FilmRow:
    """A mask from first to last round."""

    image: Pixels
    """[h, w, 3] RGB."""
    truth: BoolMask
    """[h, w]."""
    frames: list[Frame]


def filmstrip(
    rows: list[FilmRow], *, titles: list[str] | None = None, caption: str = ""
) -> Image.Image:
    """Draw masks (rows) by rounds (columns).

    Args:
        rows: photos of any size and shape. A row may end early, with a perfect mask.
        titles: one per round; "round 1" and so on by default.
        caption: one line above everything.

    Returns:
        An RGB picture. Green clicks say "this too", red ones "not this"; the newest are larger.
        The mask is blue, the truth's outline orange. A small object is shown larger, and a frame
        in the photo says where it is.
    """
    if not rows:
        raise ValueError("a filmstrip needs at least one row")
    columns = max(len(row.frames) for row in rows)
    titles = titles or [f"round {r + 1}" for r in range(columns)]
    font, bold = ImageFont.load_default(_TEXT), ImageFont.load_default(_TEXT + 2)
    sizes = [_fit(row.image) for row in rows]
    column_width = max(96, *(width for width, _ in sizes)) + _GAP
    head = _MARGIN + (26 if caption else 0) + 24
    foot = _TEXT + 12
    width = 2 * _MARGIN + (columns + 2) * column_width - _GAP
    height = head + sum(h + foot for _, h in sizes) + _MARGIN - 4
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    if caption:
        pen.text((_MARGIN, _MARGIN - 4), caption, fill=_INK, font=bold)
    for c, title in enumerate(["image", "ground truth", *titles[:columns]]):
        pen.text((_MARGIN + c * column_width, head - 22), title, fill=_INK, font=font)
    y = head
    for row, (cell_width, cell_height) in zip(rows, sizes, strict=True):
        view = closer(row.truth, _prompted(row))
        near = row if view is None else _cut(row, view)
        cells = [(_photo(row, view=view), ""), (_photo(near, truth=True), _share(row.truth))]
        cells += [(_photo(near, frame=frame), _label(frame)) for frame in near.frames]
        for c, (cell, label) in enumerate(cells):
            x = _MARGIN + c * column_width
            page.paste(cell.resize((cell_width, cell_height), Image.Resampling.BOX), (x, y))
            pen.text((x, y + cell_height + 2), label, fill=_FAINT, font=font)
        y += cell_height + foot
    return page


def _prompted(row: FilmRow) -> list[tuple[float, float]]:
    """List the clicks of a row and the corners of its boxes."""
    boxes = [frame.box for frame in row.frames if frame.box is not None]
    corners = [corner for box in boxes for corner in (box[:2], box[2:])]
    return [*((mark.x, mark.y) for frame in row.frames for mark in frame.clicks), *corners]


def _cut(row: FilmRow, view: View) -> FilmRow:
    """Return a row of the part of the photo in view, with prompts in the part's coordinates."""
    return FilmRow(
        image=np.ascontiguousarray(view.of(row.image)),
        truth=view.of(row.truth),
        frames=[_cut_frame(frame, view) for frame in row.frames],
    )


def _cut_frame(frame: Frame, view: View) -> Frame:
    left, top = view.left, view.top
    box = frame.box
    return replace(
        frame,
        mask=view.of(frame.mask),
        clicks=[replace(mark, x=mark.x - left, y=mark.y - top) for mark in frame.clicks],
        box=box and (box[0] - left, box[1] - top, box[2] - left, box[3] - top),
    )


def _fit(image: Pixels) -> tuple[int, int]:
    h, w = image.shape[:2]
    scale = CELL / max(h, w)
    return max(1, round(w * scale)), max(1, round(h * scale))


def _share(truth: BoolMask) -> str:
    share = 100 * float(truth.mean())
    return f"{share:.0f} % of image" if share >= 1 else f"{share:.2g} % of image"


def _label(frame: Frame) -> str:
    said = "" if frame.predicted_iou is None else f"  (said {frame.predicted_iou:.2f})"
    return f"IoU {frame.iou:.2f}{said}"


def _photo(
    row: FilmRow, *, truth: bool = False, frame: Frame | None = None, view: View | None = None
) -> Image.Image:
    """Draw a cell, `_FINE` times larger than its final size."""
    width, height = (_FINE * side for side in _fit(row.image))
    canvas = Image.fromarray(row.image[..., :3]).resize((width, height), Image.Resampling.BICUBIC)
    if truth:
        canvas = _tint(canvas, row.truth, _TRUTH)
    if view is not None:
        scale = width / row.image.shape[1]
        x, y = view.left * scale, view.top * scale
        corners = (x, y, x + view.width * scale, y + view.height * scale)
        ImageDraw.Draw(canvas).rectangle(corners, outline=_TRUTH, width=_FINE)
    if frame is None:
        return canvas
    canvas = _tint(canvas, frame.mask, _MASK)
    canvas = _outline(canvas, row.truth, _TRUTH)
    pen = ImageDraw.Draw(canvas)
    scale = width / row.image.shape[1]
    if frame.box is not None:
        # Inclusive pixel indices: the outline runs around the last pixel.
        x0, y0, x1, y1 = frame.box
        corners = (x0 * scale, y0 * scale, (x1 + 1) * scale, (y1 + 1) * scale)
        pen.rectangle(corners, outline=_BOX, width=2 * _FINE)
    # New clicks last, on top of earlier ones.
    for mark in sorted(frame.clicks, key=lambda mark: mark.new):
        _dot(pen, mark, scale)
    return canvas


def _dot(pen: ImageDraw.ImageDraw, mark: Mark, scale: float) -> None:
    # Half a pixel: a pixel index names the pixel's centre.
    x, y = (mark.x + 0.5) * scale, (mark.y + 0.5) * scale
    radius = (6.5 if mark.new else 4.0) * _FINE
    colour = GREEN if mark.foreground else RED
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255))
    radius -= (2.0 if mark.new else 1.2) * _FINE
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _enlarge(mask: BoolMask, size: tuple[int, int]) -> BoolMask:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    # Bilinear, then a threshold: straight edges rather than stairs where photos are small.
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) > 127


def _edge(mask: BoolMask, thickness: int) -> BoolMask:
    """Return the pixels of the mask at most `thickness` steps from its outside."""
    inner = mask.copy()
    for _ in range(thickness):
        padded = np.pad(inner, 1)
        inner = inner & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask & ~inner


def _tint(canvas: Image.Image, mask: BoolMask, colour: tuple[int, int, int]) -> Image.Image:
    large = _enlarge(mask, canvas.size)
    pixels = np.asarray(canvas).astype(np.float32)
    pixels[large] = 0.45 * pixels[large] + 0.55 * np.asarray(colour, dtype=np.float32)
    pixels[_edge(large, _FINE)] = np.asarray(colour, dtype=np.float32) * 0.75
    return Image.fromarray(pixels.astype(np.uint8))


def _outline(canvas: Image.Image, mask: BoolMask, colour: tuple[int, int, int]) -> Image.Image:
    pixels = np.array(canvas)
    pixels[_edge(_enlarge(mask, canvas.size), _FINE)] = colour
    return Image.fromarray(pixels)
