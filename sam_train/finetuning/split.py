"""A part of the photos that is held out, decided by their names alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam_train.errors import UserError
from sam_train.runtime.files import write_json
from sam_train.runtime.text import count

SHARE = 0.15
MOST = 500
"""Photos held out at most: enough to measure on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The names on either side."""

    train: list[str]
    val: list[str]
    cases: int
    """Number of cases; equal to the photos where each is one."""

    def line(self) -> str:
        """Return a line for people."""
        photos = len(self.train) + len(self.val)
        grouped = "" if self.cases == photos else f", which are {self.cases:,} cases by their names"
        return (
            f"{count(len(self.train), 'photo')} to train on and {len(self.val):,} held out, by a "
            f"hash of their names{grouped}"
        )


def split(names: Sequence[str], *, cases: Mapping[str, str]) -> Split:
    """Hold out whole cases in the order of their hashes until about 15 % of the photos are.

    Args:
        names: of samples, in their order.
        cases: name -> case.

    Raises:
        UserError: there is only one case.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name in names:
        members[cases[name]].append(name)
    if len(names) == 1:
        raise UserError(
            f"data.train has one usable photo, {names[0]}: name others to measure on, data.val="
        )
    if len(members) < 2:
        raise UserError(
            f"the {len(names)} photos of data.train are one case (they begin with {names[0]}): "
            "name photos to measure on with data.val="
        )
    wanted = min(MOST, max(1, round(SHARE * len(names))))
    held_out: set[str] = set()
    # The last case in this order always stays for training.
    for case in sorted(members, key=_draw)[:-1]:
        more = len(held_out) + len(members[case])
        if more > 1.5 * wanted:
            continue  # far too large, and the next one may be smaller
        held_out.update(members[case])
        if len(held_out) >= wanted:
            break
    if not held_out:
        smallest: list[str] = min(members.values(), key=len)
        held_out.update(smallest)
    return Split(
        train=[name for name in names if name not in held_out],
        val=[name for name in names if name in held_out],
        cases=len(members),
    )


def write_lists(found: Split, folder: Path) -> tuple[Path, Path]:
    """Write the two sides as lists for `data.include` and `data.val_include`; return their paths.

    Raises:
        UserError: the folder cannot be written.
    """
    train, val = folder / "train.json", folder / "val.json"
    try:
        write_json(train, {"include": found.train})
        write_json(val, {"include": found.val})
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): choose another run_dir="
        ) from error
    return train, val


def _draw(case: str) -> bytes:
    return hashlib.blake2b(case.encode(), digest_size=16).digest()
