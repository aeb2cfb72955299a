"""Decide what mask files stand for: each by its values, and by those of its folder.

The folder decides what one file leaves open. {0, 128, 255} is a trimap unless other files number
objects. 255 beside small class numbers is a border, and a white frame around every black shape is
the ground.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam_train.data.formats.mask_files import (
    FOREGROUND_SHARE,
    MaskFileError,
    Page,
    as_labels,
    read_pages,
)
from sam_train.data.formats.mask_values import Look, look

LAYOUTS = ("auto", "labels", "binary")
FOREGROUNDS = ("auto", "bright", "dark")

SAMPLED_FILES = 48
"""Files of a folder that are read to see what it holds, evenly spread."""
VOID = 255
"""Border or unknown, in maps of few classes (VOC, Cityscapes' training maps and many more)."""
VOID_ABOVE = 240
"""The highest other value beside which 255 is no number of an object."""
TRIMAP = frozenset({0, 127, 128, 255})
OXFORD = (1, 2, 3)
"""Oxford-IIIT Pet: animal, ground, border between them."""
FRAME_SHARE = 0.95
"""Share of a picture's outermost pixels that are ground."""


class NotAMaskError(ValueError):
    """A picture that is no mask, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The reading of all files of one folder."""

    layout: str = "auto"
    """`labels`: each value is an object. `binary`: each file is one. `auto`: as the values say."""
    ignore: tuple[int, ...] | None = None
    """Label values that are no mask; None: 0, and 255 where `void`."""
    regions: int = 0
    """4 or 8: every connected region is an object; 0: regions stay together."""
    numbered: bool = False
    """True if files of the folder number objects or classes."""
    softened: bool = False
    """True if files of the folder are black and white with soft edges."""
    void: bool = False
    oxford: bool = False
    dark: bool = False
    """True if one object is dark on bright ground."""
    framed: bool = False
    """True if the only file to judge by has a white frame, which is said."""

    def ignored(self, *, colour: bool = False) -> tuple[int, ...]:
        """Return the label values that are no mask; in a colour map, 255 is blue."""
        # What a person names comes before whatever the values suggest.
        if self.ignore is not None:
            return self.ignore
        if colour:
            return (0,)
        if self.oxford:
            return (0, *OXFORD[1:])
        return (0, VOID) if self.void else (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The objects of a page."""

    labels: npt.NDArray[Any]
    """[H, W] whole numbers."""
    ignore: tuple[int, ...]
    what: str
    """The reading of the file, in words for people."""
    single: bool = False
    """True if the page is one object, numbered 1."""


def take(page: Page, rules: Rules, *, where: object) -> Taken:
    """Return the objects of a page.

    Raises:
        NotAMaskError: it is no mask.
        MaskFileError: its values are no labels.
    """
    if rules.layout == "labels":
        return _labels(page.pixels, rules, where=where, colour=page.pixels.ndim == 3)
    # After `labels`, which asks for no judgement and saves the look.
    seen = look(page)
    if rules.layout == "binary":
        return _single(seen, rules, "one object a file")
    if seen.kind == "photo":
        raise NotAMaskError("looks like a photo: more values between dark and bright than at them")
    # A JPEG of a black-and-white mask has values near both ends only, and is still one object.
    if seen.kind == "softened labels" and not (seen.lossy and seen.near_ends):
        raise NotAMaskError(
            "edges of labels or colours were softened (a JPEG, or resized with a filter), so "
            "values between them are no objects: save it as PNG, resized with nearest"
        )
    if is_single(seen, rules):
        return _single(seen, rules, _what(seen, rules))
    return _labels(seen.labels, rules, where=where, colour=seen.colour)


def is_single(seen: Look, rules: Rules) -> bool:
    """Tell whether a page is one object rather than numbered ones."""
    if seen.cutout or seen.kind in ("soft", "softened labels"):
        return True
    if (seen.lossy or rules.softened) and seen.near_ends:
        return True
    if rules.numbered or rules.oxford:
        return False
    return _is_trimap(seen) or is_black_and_white(seen)


def is_black_and_white(seen: Look) -> bool:
    """Tell whether a page has black and one other value, or a dark and a bright one."""
    if seen.kind != "few" or seen.colour:
        return False
    low, high = seen.values[0], seen.values[-1]
    # `low == high`: a page of one value, which is all object or all ground.
    return low in (0, high) or (low < 64 and high >= 192)


def _is_trimap(seen: Look) -> bool:
    # 128 as well as 127, which is what 255 / 2 is rounded to by some tools.
    values = set(seen.values)
    return len(values) > 1 and VOID in values and values <= TRIMAP and not values <= {0, VOID}


def _what(seen: Look, rules: Rules) -> str:
    if seen.cutout:
        return "cut out by transparency: what is opaque is one object"
    if rules.dark:
        edges = ", edges softened" if seen.kind == "soft" else ""
        return f"black on white{edges}: the black is one object (--foreground bright: the white)"
    if seen.colour:
        edges = ", edges softened" if seen.kind != "few" else ""
        return f"one colour on a ground{edges}: one object each"
    if _is_trimap(seen):
        return (
            "black, grey and white: the white is one object, the grey none "
            "(--layout labels: each is one)"
        )
    edges = "" if seen.kind == "few" else ", edges softened"
    frame = " (white all around: --foreground dark takes the black)" if rules.framed else ""
    return f"black and white{edges}: one object each{frame}"


def _single(seen: Look, rules: Rules, what: str) -> Taken:
    values = seen.brightness
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    # Of a page with one value the span would be zero, and everything foreground or nothing.
    span = high - low if low < high else high
    # Softened edges are cut in the middle; a grey that somebody put there is no object.
    share = 0.5 if seen.kind == "soft" else FOREGROUND_SHARE
    if rules.dark and not seen.cutout:
        # The mirror image of the line below: dark is measured from the brightest value down.
        mask = values < high - share * span
    else:
        mask = values > high - (1 - share) * span
    return Taken(labels=mask.astype(np.uint8), ignore=(0,), what=what, single=True)


def _labels(pixels: npt.NDArray[Any], rules: Rules, *, where: object, colour: bool) -> Taken:
    labels = as_labels(pixels, where)
    ignore = rules.ignored(colour=colour)
    if rules.oxford and rules.ignore is None:
        what = "trimap of 1, 2 and 3: 1 is one object (--layout labels: each value)"
    elif colour:
        what = "colour map: one object per colour"
    elif rules.void and rules.ignore is None:
        what = "label map: one object per value; 255 is border or unknown (--ignore 0: an object)"
    else:
        what = "label map: one object per value"
    return Taken(labels=labels, ignore=ignore, what=what)


def learn(
    files: Sequence[Path],
    *,
    layout: str = "auto",
    ignore: Collection[int] | None = None,
    foreground: str = "auto",
    regions: int = 0,
) -> Rules:
    """Return the rules for a folder's mask files, after a look at some of them.

    Args:
        files: all of them, in a fixed order.
        layout: one of LAYOUTS.
        ignore: label values that are no mask; None decides by the values.
        foreground: one of FOREGROUNDS; `auto` takes the black where two files or more, and all,
            have a white frame.
        regions: 0, 4 or 8.
    """
    given = Rules(
        layout=layout,
        ignore=None if ignore is None else tuple(ignore),
        regions=regions,
        dark=foreground == "dark",
    )
    if layout == "labels" or not files:
        return given
    return _decided(given, [look(page) for page in _sample(files)], foreground=foreground)


def _decided(given: Rules, looks: list[Look], *, foreground: str) -> Rules:
    plain = [seen for seen in looks if not seen.colour and not seen.cutout]
    hard = [seen for seen in plain if seen.kind in ("few", "labels") and not seen.lossy]
    numbering = [
        seen
        for seen in looks
        if seen.kind in ("few", "labels")
        and not (_is_trimap(seen) or is_black_and_white(seen) or seen.cutout)
        and not (seen.near_ends and seen.lossy)
    ]
    oxford = _are_oxford(plain) if given.layout == "auto" else False
    others = {value for seen in hard for value in seen.values} - {VOID}
    rules = replace(
        given,
        numbered=bool(numbering),
        # By majority: one soft file among numbered ones is an outlier, not a rule.
        softened=sum(seen.kind == "soft" for seen in looks) > len(numbering),
        oxford=oxford,
        void=any(VOID in seen.values for seen in numbering) and max(others) <= VOID_ABOVE,
    )
    singles = [s for s in plain if given.layout == "binary" or is_single(s, rules)]
    framed = _white_frames(singles) if foreground == "auto" else 0
    return replace(rules, dark=given.dark or framed > 1, framed=framed == 1)


def _sample(files: Sequence[Path]) -> Iterable[Page]:
    count = min(len(files), SAMPLED_FILES)
    for k in range(count):
        try:
            # The first page alone: the pages of a stack are alike.
            yield next(iter(read_pages(files[k * len(files) // count])))
        except (MaskFileError, StopIteration):
            # Named and counted where its photo is converted.
            continue


def _are_oxford(looks: list[Look]) -> bool:
    """Tell whether all files hold 1, 2 and 3, and 3 parts 1 from 2 as a border does."""
    full = [seen for seen in looks if seen.values == OXFORD]
    if not full or any(not set(seen.values) <= set(OXFORD) for seen in looks):
        return False
    touching = parted = 0
    for seen in full:
        for a, b in (
            (seen.labels[:, 1:], seen.labels[:, :-1]),
            (seen.labels[1:], seen.labels[:-1]),
        ):
            low, high = np.minimum(a, b), np.maximum(a, b)
            # Animal and ground side by side, which a border between them would prevent.
            touching += int(((low == 1) & (high == 2)).sum())
            parted += int(((low != high) & (high == 3)).sum())
    return touching < 0.02 * parted


def _white_frames(looks: list[Look]) -> int:
    """Count the files with white all around and for the most part; 0 if one has not."""
    framed = 0
    for seen in looks:
        values = seen.brightness
        if not seen.deep and values.dtype != np.bool_:
            # {0, 1} numbers: 0 is the ground by custom, whatever lies at the edges.
            continue
        white = values > FOREGROUND_SHARE * values.max()
        if white.all() or not white.any():
            continue
        frame = np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]])
        # One file without a white frame shows that white is no ground here.
        if frame.mean() < FRAME_SHARE or white.mean() < 0.5:
            return 0
        framed += 1
    return framed
