"""Cases: which photos show the same thing, told by their format, `groups.tsv` or their names.

Tiles of one slide, slices of one volume and pages of one file are no independent photos. A model
that was trained on one of them has seen the others, so they stay on one side of a split.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sam_train.data.shards.groups_file import groups_of
from sam_train.data.shards.reader import Shards
from sam_train.errors import UserError
from sam_train.runtime.files import write_json

_PART = re.compile(
    # A letter alone needs something in front of it: `s1` is a name, `_s1` a part.
    r"(?:(?:^|[ _.\-]+)(?:tile|slice|page|patch|crop|frame|plane)|[ _.\-]+[zstcpxy])"
    r"[ _.\-]?[0-9]+$",
    re.IGNORECASE,
)
_COPY = re.compile(r"(?:_(?:jpe?g|png|tiff?))?\.rf\.[0-9a-zA-Z]+$")
"""Ending of an augmented copy: `street_jpg.rf.3f2a...`."""
_NUMBER = re.compile(r"(?:^|[ _.\-]+)[0-9]+$")
_FILE = re.compile(r"\.(?:tiff?|png|jpe?g|bmp|webp)$", re.IGNORECASE)
"""Ending of a group that is a photo cut into tiles, or a file of pages."""
FILE = "cases.json"
LEAST_CASES = 5
"""Fewer cases than this, and numbers at the ends of names are taken for numbers of photos."""
LARGEST_SHARE = 0.4
"""Nor is anything a case that has more of the photos than this."""


def cases_of(
    names: Sequence[str],
    *,
    groups: Mapping[str, str],
    digests: Mapping[str, bytes],
    whole: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the case of each photo.

    Args:
        names: of samples, unique.
        groups: name -> scene, patient or slide, where a file or the format says so.
        digests: name -> digest of the photo; photos that are equal are one case.
        whole: name -> photo that it is a tile of, or file that it is a page of; such a name may
            itself be that of a part.
    """
    whole = whole or {}
    stems = {name: _stem(whole.get(name, name)) for name in names if name not in groups}
    parts = {name: _without(_PART, stem) for name, stem in stems.items()}
    cases = parts if len(set(parts.values())) > 1 else stems
    numbers = {name: _without(_NUMBER, case) for name, case in cases.items()}
    if _are_cases(numbers):
        cases = numbers
    cases = {name: groups.get(name) or cases[name] for name in names}
    # The same photo under two names joins their cases.
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for name, digest in digests.items():
        if name not in cases:
            continue
        case, other = _root(same, cases[name]), _root(same, first.setdefault(digest, cases[name]))
        if case != other:
            same[max(case, other)] = min(case, other)
    return {name: _root(same, case) for name, case in cases.items()}


def only_case(cases: Mapping[str, str]) -> str:
    """Return the case that all photos look like parts of, "" where there are several.

    Args:
        cases: of `cases_of`, which takes parts for cases where there is only one.
    """
    parts = {name: _without(_PART, _stem(name)) for name in cases}
    found = set(parts.values())
    # A single photo, or names that say nothing, are no parts.
    if len(cases) < 2 or len(found) > 1 or any(part == _stem(name) for name, part in parts.items()):
        return ""
    return found.pop()


def cases_in(
    shards: Shards, *, digests: Mapping[str, bytes], without: Collection[str] = ()
) -> dict[str, str]:
    """Return the case of each photo of a data set, as `cases_of`.

    Args:
        digests: as `cases_of` takes them.
        without: names of photos to leave out.
    """
    groups: dict[str, str] = {}
    whole: dict[str, str] = {}
    for sample, group in groups_of(shards, samples=len(shards)).items():
        name = shards.key(sample)
        # A photo's own name is a group where it was cut into tiles.
        (whole if _FILE.search(group) else groups)[name] = group
    names = [name for k in range(len(shards)) if (name := shards.key(k)) not in without]
    return cases_of(names, groups=groups, digests=digests, whole=whole)


def write_cases(cases: Mapping[str, str], folder: Path) -> None:
    """Write the cases of held-out photos to `folder/cases.json`.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        write_json(folder / FILE, dict(cases))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another run_dir="
        ) from error


def read_cases(folder: Path) -> dict[str, str]:
    """Read what `write_cases` wrote; {} where there is no file."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {name: str(case) for name, case in found.items()}
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): choose another run_dir=") from None


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
    numbered = bool(found) and all(
        any(sign.isdigit() for sign in PurePosixPath(case).name) for case in counts
    )
    return (
        numbered
        and len(counts) >= LEAST_CASES
        and max(counts.values()) <= LARGEST_SHARE * len(found)
    )


def _root(same: Mapping[str, str], case: str) -> str:
    while case in same:
        case = same[case]
    return case
