"""Cases: which photos show the same thing, told from their names.

Tiles of one slide, slices of one volume and pages of one file are no independent photos. A model
that was trained on one of them has seen the others, so they stay on one side of a split.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

_PART = re.compile(
    # A letter alone needs something in front of it: `s1` is a name, `_s1` a part.
    r"(?:(?:^|[ _.\-]+)(?:tile|slice|page|patch|crop|frame|plane)|[ _.\-]+[zstcpxy])"
    r"[ _.\-]?[0-9]+$",
    re.IGNORECASE,
)
_COPY = re.compile(r"(?:_(?:jpe?g|png|tiff?))?\.rf\.[0-9a-zA-Z]+$")
"""Ending of an augmented copy: `street_jpg.rf.3f2a...`."""
_NUMBER = re.compile(r"(?:^|[ _.\-]+)[0-9]+$")
LEAST_CASES = 5
"""Fewer cases than this, and numbers at the ends of names are taken for numbers of photos."""
LARGEST_SHARE = 0.4
"""Nor is anything a case that has more of the photos than this."""


def cases_of(
    names: Sequence[str], *, groups: Mapping[str, str], digests: Mapping[str, bytes]
) -> dict[str, str]:
    """Return the case of each photo.

    Args:
        names: of samples, unique.
        groups: name -> scene, patient or slide, where a file says so.
        digests: name -> digest of the photo; photos that are equal are one case.
    """
    stems = {name: groups.get(name) or _stem(name) for name in names}
    parts = {name: _without(_PART, stem) for name, stem in stems.items()}
    cases = parts if len(set(parts.values())) > 1 else stems
    numbers = {name: _without(_NUMBER, case) for name, case in cases.items()}
    if _are_cases(numbers):
        cases = numbers
    # The same photo under two names joins their cases.
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for name, digest in digests.items():
        case, other = _root(same, cases[name]), _root(same, first.setdefault(digest, cases[name]))
        if case != other:
            same[max(case, other)] = min(case, other)
    return {name: _root(same, case) for name, case in cases.items()}


def _stem(name: str) -> str:
    """Return a name without its ending, and without that of an augmented copy."""
    path = PurePosixPath(name)
    return str(path.with_name(_COPY.sub("", path.name.removesuffix(path.suffix)) or path.name))


def _without(ending: re.Pattern[str], stem: str) -> str:
    """Cut an ending off as often as it is there; a name that is no more than that is its folder."""
    path = PurePosixPath(stem)
    short = path.name
    while (shorter := ending.sub("", short)) != short:
        short = shorter
    return str(path.with_name(short) if short else path.parent)


def _are_cases(found: Mapping[str, str]) -> bool:
    """Decide whether names without their last number are cases: `patient3_012`, not `photo_012`."""
    counts = Counter(found.values())
    # `photo` of `photo_012` is a word; a case has a number or a code of its own.
    numbered = all(any(sign.isdigit() for sign in PurePosixPath(case).name) for case in counts)
    return (
        numbered
        and len(counts) >= LEAST_CASES
        and max(counts.values()) <= LARGEST_SHARE * len(found)
    )


def _root(same: Mapping[str, str], case: str) -> str:
    while case in same:
        case = same[case]
    return case
